# SPDX-License-Identifier: Apache-2.0
"""Training: the Trainer, its tasks, callbacks and logs."""

from .callbacks import Callback, EarlyStopping
from .logs import CSVLog, TensorBoardLog
from .precision import MixedPrecision
from .predictor import Predictor
from .setup import parameter_groups
from .task import Task
from .tasks import (
    CTC,
    TASKS,
    Classification,
    Forecasting,
    MaskedToken,
    NextToken,
    QuestionAnswering,
    Seq2SeqTask,
    Tagging,
    best_path,
)
from .trainer import Trainer, TrainingError

__all__ = [
    "CTC",
    "TASKS",
    "CSVLog",
    "Callback",
    "Classification",
    "EarlyStopping",
    "Forecasting",
    "MaskedToken",
    "MixedPrecision",
    "NextToken",
    "Predictor",
    "QuestionAnswering",
    "Seq2SeqTask",
    "Tagging",
    "Task",
    "TensorBoardLog",
    "Trainer",
    "TrainingError",
    "best_path",
    "parameter_groups",
]
