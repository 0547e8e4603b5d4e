# SPDX-License-Identifier: Apache-2.0
"""BERT and its heads: masked words, sequences, tokens, spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from ..nn import Embedding, LayerNorm, Linear, Module, ModuleList, init
from ..tensor import Tensor
from . import layers
from .base import CheckpointRules, Model
from .config import Config
from .inputs import Padding, as_array, as_ids, as_padding
from .layers import Group, activated, dropped, split_heads


@dataclass
class BertConfig(Config):
    """Fields of BERT's `config.json`; `num_labels` is for new heads of so many classes."""

    model_type: ClassVar[str] = "bert"
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": layers.ACTIVATIONS,
        "position_embedding_type": ("absolute",),
    }
    required: ClassVar[dict[str, tuple[Any, ...]]] = {"is_decoder": (False, None)}

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None

    def check(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            self.refuse(
                "hidden_size", f"be a multiple of num_attention_heads = {self.num_attention_heads}"
            )
        if self.num_labels is None:
            self.num_labels = 2 if self.id2label is None else max(len(self.id2label), 1)
        elif self.id2label is not None and len(self.id2label) != self.num_labels:
            self.refuse("num_labels", f"be the size of id2label = {len(self.id2label)}")

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        labels = values.pop("id2label") or {str(i): f"LABEL_{i}" for i in range(self.labels)}
        values["id2label"] = labels
        values.setdefault("label2id", {str(v): int(k) for k, v in labels.items()})
        del values["num_labels"]
        return values

    @property
    def labels(self) -> int:
        """How many classes a head has."""
        assert self.num_labels is not None
        return self.num_labels


class BertLayer(Module):
    """Self-attention and a feed-forward pair, each added to its input and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_eps
        self.config = config
        self.attention = Group(
            self=Group(query=Linear(d, d), key=Linear(d, d), value=Linear(d, d)),
            output=Group(dense=Linear(d, d), LayerNorm=LayerNorm(d, eps)),
        )
        self.intermediate = Group(dense=Linear(d, config.intermediate_size))
        self.output = Group(dense=Linear(config.intermediate_size, d), LayerNorm=LayerNorm(d, eps))

    def forward(self, x: Tensor, padding: Padding, maps: list[Tensor] | None = None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        config, projections = self.config, self.attention.self
        heads = config.num_attention_heads
        p = config.attention_probs_dropout_prob if self.training else 0.0
        seen = layers.attention(
            split_heads(projections.query(x), heads),
            split_heads(projections.key(x), heads),
            split_heads(projections.value(x), heads),
            padding,
            maps,
            dropout_p=p,
        )
        x = self._added(self.attention.output, seen, x)
        inner = activated(self.intermediate.dense, x, config.hidden_act)
        return self._added(self.output, inner, x)

    def _added(self, part: Group, inner: Tensor, x: Tensor) -> Tensor:
        """LayerNorm(x + dropout(dense(inner)))."""
        y = dropped(self, part.dense(inner), self.config.hidden_dropout_prob)
        norm = part.LayerNorm
        normed: Tensor = ops.add_layer_norm(y, x, norm.weight, norm.bias, eps=norm.eps)[0]
        return normed


class BertEmbeddings(Module):
    """Words, positions and segments, added and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        d, padding = config.hidden_size, config.pad_token_id
        self.config = config
        self.word_embeddings = Embedding(config.vocab_size, d, padding)
        self.position_embeddings = Embedding(config.max_position_embeddings, d)
        self.token_type_embeddings = Embedding(config.type_vocab_size, d)
        self.LayerNorm = LayerNorm(d, config.layer_norm_eps)

    def forward(self, ids: Tensor, types: Tensor | None, positions: Tensor | None) -> Tensor:
        """Ids [B, T] to [B, T, D]."""
        length, most = ids.shape[1], self.config.max_position_embeddings
        if positions is not None:
            where = self.position_embeddings(positions)
        elif length > most:
            raise ValueError(f"Bert: input_ids must have T <= {most} positions, got {length}")
        else:
            where = self.position_embeddings.weight[:length]
        kinds = self.token_type_embeddings
        what = self.word_embeddings(ids) + (kinds.weight[0] if types is None else kinds(types))
        return dropped(self, self.LayerNorm(what + where), self.config.hidden_dropout_prob)


def _tree(config: BertConfig, pooler: bool) -> dict[str, Module]:
    """The modules below "bert."."""
    blocks = ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])
    tree: dict[str, Module] = {"embeddings": BertEmbeddings(config), "encoder": Group(layer=blocks)}
    if pooler:
        tree["pooler"] = Group(dense=Linear(config.hidden_size, config.hidden_size))
    return tree


def _encode(
    tree: Any,
    device: str,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    maps: list[Tensor] | None,
) -> Tensor:
    """Hidden states [B, T, D] of the tree's last layer."""
    ids = as_ids("Bert", "input_ids", input_ids, device)
    batch, length = ids.shape
    types = positions = None
    if token_type_ids is not None:
        types = as_ids("Bert", "token_type_ids", token_type_ids, device)
        if types.shape != ids.shape:
            raise ValueError(
                f"Bert: token_type_ids must have shape [B, T] = {[batch, length]}, got"
                f" {list(types.shape)}"
            )
    if position_ids is not None:
        where = as_array("Bert", "position_ids", position_ids)
        if where.shape not in ((batch, length), (1, length), (length,)):
            raise ValueError(
                f"Bert: position_ids must have shape [B, T] = {[batch, length]}, got"
                f" {list(where.shape)}"
            )
        where = np.broadcast_to(where, (batch, length))
        positions = as_ids("Bert", "position_ids", where, device)
    padding = as_padding("Bert", attention_mask, batch, length, device)
    x: Tensor = tree.embeddings(ids, types, positions)
    for layer in tree.encoder.layer:
        x = layer(x, padding, maps)
    return x


_HEADS = (r"(bert\.)?pooler\..*", r"cls\..*", r"classifier\..*", r"qa_outputs\..*")
_OLD_NAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
_BUFFERS = r"(bert\.)?embeddings\.(position_ids|token_type_ids)"


class _BertModel(Model):
    """What all classes of the family share."""

    config_class = BertConfig

    def _initialise(self, module: Module) -> None:
        layers.initialise(module, self.config.initializer_range)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(
            prefix="bert.", renamed=_OLD_NAMES, ignored=(_BUFFERS,), heads=_HEADS
        )

    def hidden(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        *,
        position_ids: Any = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D]; attention weights of each layer are appended to `maps`."""
        tree = getattr(self, "bert", self)
        return _encode(
            tree, self.device, input_ids, attention_mask, token_type_ids, position_ids, maps
        )

    def pooled(self, hidden: Tensor) -> Tensor:
        """[B, D]: what the pooler makes of the first token's hidden state."""
        tree: Any = getattr(self, "bert", self)
        return ops.tanh(tree.pooler.dense(hidden[:, 0]))

    def _head(self, hidden: Tensor) -> Any:
        return hidden

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        *,
        position_ids: Any = None,
        return_weights: bool = False,
    ) -> Any:
        """
        Parameters
        ----------
        input_ids : integers [B, T]
        attention_mask : [B, T], optional
            Nonzero where there is a token.
        token_type_ids, position_ids : integers [B, T], optional
        return_weights : bool
            Also return the attention weights [B, H, T, T] of each layer, as a list.
        """
        maps: list[Tensor] | None = [] if return_weights else None
        hidden = _BertModel.hidden(
            self, input_ids, attention_mask, token_type_ids, position_ids=position_ids, maps=maps
        )
        y = self._head(hidden)
        return (y, maps) if return_weights else y


class Bert(_BertModel):
    """The encoder: hidden states [B, T, D]; ``pooled(hidden)`` gives [B, D].

    Parameters
    ----------
    config : BertConfig, optional
    **fields
        Fields of the configuration, instead of `config`.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Bert(vocab_size=9, hidden_size=8, num_hidden_layers=1,
    ...                        num_attention_heads=2, intermediate_size=16).eval()
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 8)
    """

    architectures = ("BertModel",)

    def __init__(self, config: BertConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        with init.skip():
            for name, module in _tree(self.config, True).items():
                self.add_module(name, module)
        self.apply(self._initialise)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        """The tree has no "bert." in front; checkpoints with a head have."""
        return CheckpointRules(
            renamed=((r"^bert\.", ""), *_OLD_NAMES), ignored=(_BUFFERS,), heads=_HEADS
        )


class _WithHead(_BertModel):
    pooler: ClassVar[bool] = False

    def __init__(self, config: BertConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        with init.skip():
            self.bert = Group(**_tree(self.config, self.pooler))
            self._build(self.config)
        self.apply(self._initialise)

    def _build(self, config: BertConfig) -> None:
        raise NotImplementedError

    def _dropout(self, x: Tensor) -> Tensor:
        p = self.config.classifier_dropout
        return dropped(self, x, self.config.hidden_dropout_prob if p is None else p)


class BertForMaskedLM(_WithHead):
    """Logits [B, T, V] of the words at all positions.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.BertForMaskedLM(vocab_size=9, hidden_size=8, num_hidden_layers=1,
    ...                                   num_attention_heads=2, intermediate_size=16).eval()
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 9)
    """

    architectures = ("BertForMaskedLM",)

    def _build(self, config: BertConfig) -> None:
        d = config.hidden_size
        predictions: Any = Group(
            transform=Group(dense=Linear(d, d), LayerNorm=LayerNorm(d, config.layer_norm_eps)),
            decoder=Linear(d, config.vocab_size),
        )
        if config.tie_word_embeddings:
            predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        predictions.bias = predictions.decoder.bias  # a checkpoint may use either name
        self.cls = Group(predictions=predictions)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        base = super().checkpoint_rules()
        unused = (r"bert\.pooler\..*", r"cls\.seq_relationship\..*")
        return CheckpointRules(
            prefix="bert.", renamed=_OLD_NAMES, ignored=(*base.ignored, *unused), heads=_HEADS
        )

    @property
    def lm_head(self) -> Any:
        """The output projection, whose weight is the embedding's when tied."""
        return self.cls.predictions.decoder

    def _transformed(self, x: Tensor) -> Tensor:
        transform = self.cls.predictions.transform
        y: Tensor = transform.LayerNorm(activated(transform.dense, x, self.config.hidden_act))
        return y

    def hidden(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `lm_head` takes: [B, T, D] after the head's transformation."""
        return self._transformed(super().hidden(*args, **kwargs))

    def _head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self._transformed(hidden))
        return logits


class BertForSequenceClassification(_WithHead):
    """Logits [B, num_labels], from the pooled first token."""

    architectures = ("BertForSequenceClassification",)
    pooler = True

    def _build(self, config: BertConfig) -> None:
        self.classifier = Linear(config.hidden_size, config.labels)

    def _head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self._dropout(self.pooled(hidden)))
        return logits


class BertForTokenClassification(_WithHead):
    """Logits [B, T, num_labels] at each token."""

    architectures = ("BertForTokenClassification",)

    def _build(self, config: BertConfig) -> None:
        self.classifier = Linear(config.hidden_size, config.labels)

    def _head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self._dropout(hidden))
        return logits


class BertForQuestionAnswering(_WithHead):
    """(start_logits, end_logits), each [B, T]: where the answer begins and ends."""

    architectures = ("BertForQuestionAnswering",)

    def _build(self, config: BertConfig) -> None:
        if config.labels != 2:
            config.refuse("num_labels", "be 2 for question answering")
        self.qa_outputs = Linear(config.hidden_size, 2)

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.qa_outputs(hidden)
        return logits[..., 0], logits[..., 1]
