# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  (the table of errors is one line an error)
"""Errors planted in the project's own kernels, and which emulated build notices them.

    python tests/emulation/project_mutations.py build/plain build/checked     makes the table
    python tests/emulation/project_mutations.py --check build/checked         judges, as CI does

Each build folder is an emulated build of the whole project (the second with
SEQLOOM_EMULATION_CHECKED=ON). The kernels are compiled once more with all errors in them, each behind a
run-time switch, and linked into a second module; then every error is switched on alone in a process
of its own. Prints the table and writes project_mutations.csv. With --check only the checked build
is asked, nothing is written, and an error that goes unnoticed is a failure, as is a false alarm.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
TABLE = HERE / "project_mutations.csv"
MODES = ("plain", "checked")

TEAM = "cuda/row_team.h"
SOFTMAX, NORM = "ops/softmax/softmax_cuda.cu", "ops/norm/norm_cuda.cu"
REDUCTION, SORT = "ops/reduction/reduction_cuda.cu", "ops/layout/sort_cuda.cu"
GEMM, MATMUL = "ops/matmul/gemm_cuda.cu", "ops/matmul/matmul_cuda.cu"
LAYOUT, ROTARY = "ops/layout/layout_cuda.cu", "ops/elementwise/rotary_cuda.cu"
LOSS = "ops/loss/loss_cuda.cu"
ELEMENTWISE, RNN = "ops/elementwise/elementwise_cuda.cu", "ops/rnn/rnn_cuda.cu"
OPTIMIZER = "ops/optimizer/optimizer_cuda.cu"
PERSISTENT = "ops/rnn/rnn_cuda_persistent.cu"
EXCHANGE = "ops/rnn/rnn_cuda_persistent.h"
RNN_BACKWARD = "ops/rnn/rnn_backward_cuda.cu"
PERSISTENT_BACKWARD = "ops/rnn/rnn_backward_cuda_persistent.cu"
GENERAL = "ops/rnn/rnn_general_cuda.cu"
FORWARD = "ops/attention/attention_cuda_forward.cu"
BACKWARD = "ops/attention/attention_cuda_backward.cu"
BIAS = "ops/attention/attention_cuda_mask.cu"
SHARED = "ops/attention/attention_cuda.h"
TILES, ADDITIVE = "ops/attention/attention_tiles_cuda.h", "ops/attention/additive_cuda.cu"
CTC, QUANTIZED = "ops/loss/ctc_cuda.cu", "ops/quantized/quantized_cuda.cu"
ADAFACTOR, CACHE = "ops/optimizer/adafactor_cuda.cu", "ops/cache/cache_cuda.cu"
WIDENED = "ops/attention/attention_cuda.cu"
SYNC = "__syncthreads();"
SITE_SYNC = "__syncthreads(SEQLOOM_PASS_SITE_ONLY);"

# (number, file, case, what, text before, the text itself, replacement). "text before" finds the place:
# the first occurrence of the text after it is replaced; BUG is the switch.
MUTATIONS: list[tuple[int, str, str, str, str, str, str]] = [
    (1, TEAM, "softmax_long", "parts of warps read without a barrier", "if (warps_ > 1) {", SITE_SYNC, f"if (!BUG) {SITE_SYNC}"),
    (2, TEAM, "norm_long", "buffers of two reductions do not take turns", "float2 reduce(float2 value", "turn_ ^= 1;", "turn_ ^= BUG ? 0 : 1;"),
    (4, TEAM, "softmax_odd", "last chunk of a row one element too long", "RowChunk at(int64_t c)", "static_cast<int>(n - r.first) : kWidth;", "static_cast<int>(n - r.first) + BUG : kWidth;"),
    (5, TEAM, "softmax_short", "teams take the next row", "size = lanes_ * warps_;", "thread / size;", "thread / size + BUG;"),
    (6, TEAM, "softmax_misaligned", "misaligned rows taken for aligned", "RowPointer<T> row_of", "own == phase", "BUG || own == phase"),
    (7, TEAM, "softmax_short", "no check that the row exists", "rank = thread % size;", "row < layout.rows;", "BUG || row < layout.rows;"),
    (8, SOFTMAX, "softmax_long", "threads leave before a reduction", "forward_rows(", "total = team.template reduce<MaxAndExpSum>(total);", "if (BUG && team.rank >= 100) return;\n  total = team.template reduce<MaxAndExpSum>(total);"),
    (9, SOFTMAX, "softmax_long", "maximum and sum of the thread instead of the row", "forward_rows(", "total = team.template reduce<MaxAndExpSum>(total);", "if (!BUG) total = team.template reduce<MaxAndExpSum>(total);"),
    (10, SOFTMAX, "softmax_backward", "backward: sum of the thread instead of the row", "backward_rows(", "dot = team.sum(dot);", "if (!BUG) dot = team.sum(dot);"),
    (11, SOFTMAX, "softmax_columns", "no check that the column exists", "struct ColumnTeam", "column < layout.columns ? layout.n : 0;", "BUG || column < layout.columns ? layout.n : 0;"),
    (12, SOFTMAX, "softmax_long", "reduction in a branch that some of the warps take", "forward_rows(", "total = team.template reduce<MaxAndExpSum>(total);", "if (!BUG || team.rank < 96) total = team.template reduce<MaxAndExpSum>(total);"),
    (13, NORM, "norm_plain", "null weight is read", "forward_rows(NormArgs", "if (a.weight != nullptr) {", "if (BUG || a.weight != nullptr) {"),
    (14, NORM, "norm_apart", "partial sums read without a barrier", "parameter_partials", SYNC, f"if (!BUG) {SYNC}"),
    (15, NORM, "norm_apart", "partials: no check that the column exists", "parameter_partials", "if (column < a.n)\n    for", "if (BUG || column < a.n)\n    for"),
    (16, NORM, "norm_apart", "partials: the last block runs past the rows", "parameter_partials", "first + rows_a_block < a.rows ?", "BUG || first + rows_a_block < a.rows ?"),
    (17, NORM, "norm_backward", "sums: no check that the column exists", "parameter_sums(const", "if (ty != 0 || column >= n) return;", "if (ty != 0 || (!BUG && column >= n)) return;"),
    (18, NORM, "norm_backward", "every thread stores the row's mean", "forward_rows(NormArgs", "if (team.rank == 0 && team.live) {", "if ((BUG || team.rank == 0) && team.live) {"),
    (19, NORM, "norm_apart", "workspace released before the kernels that use it", "void parameters_apart(", "cuda::LaunchConfig config;", "if (BUG) cuda::release(partial.as<float>(), cuda::current_stream());\n    cuda::LaunchConfig config;"),
    (20, NORM, "norm_apart", "grid leaves out the last columns", "void parameters_apart(", "(a.n + kTileColumns - 1) / kTileColumns", "(a.n + (BUG ? 0 : kTileColumns - 1)) / kTileColumns"),
    (21, NORM, "norm_long", "variance about zero", "forward_rows(NormArgs", "const float d = fmaf(x[k], scale_, -mean);", "const float d = fmaf(x[k], scale_, BUG ? 0.f : -mean);"),
    (22, REDUCTION, "sum_rows", "no barrier before the tree", "rows_kernel(ReduceArgs", f"shared[tid] = p;\n    {SYNC}", f"shared[tid] = p;\n    if (!BUG) {SYNC}"),
    (23, REDUCTION, "sum_rows", "no barrier between the tree's levels", "rows_kernel(ReduceArgs", f"      }}\n      {SYNC}", f"      }}\n      if (!BUG) {SYNC}"),
    (24, REDUCTION, "sum_columns", "columns: no barrier before the tree", "columns_kernel(ReduceArgs", f"shared[ty][tx] = p;\n    {SYNC}", f"shared[ty][tx] = p;\n    if (!BUG) {SYNC}"),
    (25, REDUCTION, "sum_columns", "columns: result stored past the last column", "columns_kernel(ReduceArgs", "if (ty == 0 && column < args.inner)", "if (ty == 0 && (BUG || column < args.inner))"),
    (26, REDUCTION, "cumsum", "scan in one buffer", ") cumsum_rows_kernel(", "buffer ^= 1;", "buffer ^= BUG ? 0 : 1;"),
    (27, REDUCTION, "cumsum", "scan: next tile overwrites the total", ") cumsum_rows_kernel(", f"carry += sums[buffer][kThreads - 1];\n      {SYNC}", f"carry += sums[buffer][kThreads - 1];\n      if (!BUG) {SYNC}"),
    (28, REDUCTION, "cumsum", "scan: total not carried along", ") cumsum_rows_kernel(", "carry + x);", "(BUG ? C(0) : carry) + x);"),
    (29, SORT, "sort_rows", "no barrier between the stages", "sort_block_kernel(", SYNC, f"if (!BUG) {SYNC}"),
    (30, SORT, "sort_rows", "no barrier before the result is stored", "key[other] = held_key;", SYNC, f"if (!BUG) {SYNC}"),
    (31, SORT, "sort_rows", "padding sorts to the front", "make_keys_kernel(", "~uint64_t{0};", "BUG ? 0 : ~uint64_t{0};"),
    (32, GEMM, "tensor_product", "cp.async wait off by one", "gemm_kernel(ProductArgs p", "ptx::cp_async_wait<kStages - 2>();", "if (BUG) ptx::cp_async_wait<kStages - 1>(); else ptx::cp_async_wait<kStages - 2>();"),
    (33, GEMM, "tensor_product", "no barrier after the wait", "gemm_kernel(ProductArgs p", SYNC, f"if (!BUG) {SYNC}"),
    (34, GEMM, "tensor_product", "one line too many is copied", "void load_panel", "line < lines ?", "line < lines + BUG ?"),
    (35, GEMM, "tensor_product", "lines copied past their end", "void load_panel", "live = live < 0 ? 0", "live = BUG && live > 0 ? 8 : live < 0 ? 0"),
    (36, GEMM, "tensor_product", "rows stored past the end of C", "ptx::cp_async_wait<0>();", "if (row < p.m && column < p.n)", "if ((BUG || row < p.m) && column < p.n)"),
    (37, GEMM, "tensor_product", "B not transposed by ldmatrix", "uint32_t pair[4];", "ptx::ldmatrix_x4_trans(\n                pair,", "[](bool bug, uint32_t (&r)[4], uint32_t at) { if (bug) ptx::ldmatrix_x4(r, at); else ptx::ldmatrix_x4_trans(r, at); }(BUG, pair,"),
    (38, GEMM, "tensor_product", "prefetch into a stage that is being read", "gemm_kernel(ProductArgs p", "T* to_a = panels_a + panel % kStages", "T* to_a = panels_a + (panel + BUG) % kStages"),
    (39, GEMM, "tensor_product", "too little shared memory asked for", "void launch_gemm", "kStages * (PanelA::kElements", "(kStages - BUG) * (PanelA::kElements"),
    (40, MATMUL, "plain_product", "no barrier before the tiles are refilled", "plain_kernel(ProductArgs p)", SYNC, f"if (!BUG) {SYNC}"),
    (41, MATMUL, "plain_product", "no barrier after the tiles are filled", "load_tile<Sum>(tile_b,", SYNC, f"if (!BUG) {SYNC}"),
    (42, MATMUL, "plain_product", "tile read past the end of the matrix", "void load_tile(Sum", "row < rows && k < depth", "(BUG || row < rows) && k < depth"),
    (43, MATMUL, "turing_product", "sm_75: no barrier after the tiles are filled", "load_half_tile(tile_b,", SYNC, f"if (!BUG) {SYNC}"),
    (44, MATMUL, "turing_product", "sm_75: fragment rows and columns exchanged", "turing_kernel(ProductArgs p)", "g = lane >> 2,", "g = BUG ? lane & 7 : lane >> 2,"),
    (45, MATMUL, "column_sums", "column sums read without a barrier", "sums[ty][tx] = sum;", SYNC, f"if (!BUG) {SYNC}"),
    (46, MATMUL, "column_sums", "total: no check that the column exists", ") column_total_kernel(", "if (column >= a.columns) return;", "if (!BUG && column >= a.columns) return;"),
    (47, LAYOUT, "embedding_backward", "every place of a run adds it up", "scatter_add_kernel(const T* grad", "if (s > 0 && keys[s - 1] == key)", "if (!BUG && s > 0 && keys[s - 1] == key)"),
    (48, LAYOUT, "embedding_backward", "gradient not cleared first", "void scatter_add_cuda", "cuda::fill_bytes(a.out, 0,", "if (!BUG) cuda::fill_bytes(a.out, 0,"),
    (49, LAYOUT, "triangle", "diagonal left out", ") triangle_kernel(", "column - row <= a.diagonal", "column - row <= a.diagonal - BUG"),
    (50, ROTARY, "rotary", "table read one row further", ") rotary_kernel(", "b * a.table_batch_stride + t * a.pairs", "b * a.table_batch_stride + (t + BUG) * a.pairs"),
    (51, LOSS, "cross_entropy", "maximum and sum of the thread instead of the row", "rows_kernel(", "total = team.template reduce<cuda::MaxAndExpSum>(total);", "if (!BUG) total = team.template reduce<cuda::MaxAndExpSum>(total);"),
    (52, LOSS, "cross_entropy", "every thread stores the loss", "smooth = team.sum(smooth);", "if (team.rank == 0 && team.live) {", "if ((BUG || team.rank == 0) && team.live) {"),
    (53, ELEMENTWISE, "activation", "whole vector loaded at the ragged end", "void load_operand", "if (left >= W)", "if (BUG || left >= W)"),
    (54, ELEMENTWISE, "transpose", "tile read without a barrier", "transpose_kernel(const T* from", SYNC, f"if (!BUG) {SYNC}"),
    (55, ELEMENTWISE, "transpose", "stored past the last column", "transpose_kernel(const T* from", "c0 + tx < columns) to[", "(BUG || c0 + tx < columns)) to["),
    (56, ELEMENTWISE, "dropout", "numbers of the next block", "vector_kernel(VectorArgs", "static_cast<uint64_t>(first + k)) / 4", "static_cast<uint64_t>(first + k)) / 4 + (BUG ? 1 : 0)"),
    (57, RNN, "recurrence", "begin: no check that the unit exists", "begin_kernel(Steps", "if (i >= q.batch * q.units) return;", "if (!BUG && i >= q.batch * q.units) return;"),
    (58, RNN, "recurrence", "steps past a sequence's length", "step_kernel(Steps", "if (s >= n) return;", "if (!BUG && s >= n) return;"),
    (59, RNN, "recurrence", "products of the next unit", "step_kernel(Steps", "products + b * kGates * H + unit;", "products + b * kGates * H + unit + BUG;"),
    (60, RNN_BACKWARD, "recurrence", "backward: the first step's state taken from the outputs", "states_kernel(Steps", "if (t < n && s > 0)", "if (t < n && (BUG || s > 0))"),
    (61, OPTIMIZER, "adamw", "whole unit at a tensor's ragged end", "adam_kernel(AdamArgs", "item.aligned && left >= kOptimizerUnit", "item.aligned && (BUG || left >= kOptimizerUnit)"),
    (62, OPTIMIZER, "adamw", "every thread stores the block's sum of squares", "squares_kernel(OptimizerList", "if (threadIdx.x == 0) partial", "if (BUG || threadIdx.x == 0) partial"),
    (63, OPTIMIZER, "adamw", "one partial sum too many", "root_kernel(const double", "i < count;", "i < count + BUG;"),
    (64, FORWARD, "attention", "cp.async wait off by one", "stages.load(tile);", "ptx::cp_async_wait<0>();", "{ if (BUG) ptx::cp_async_wait<1>(); else ptx::cp_async_wait<0>(); }"),
    (65, FORWARD, "attention", "no barrier when a tile has landed", "stages.load(tile);", SYNC, f"if (!BUG) {SYNC}"),
    (66, SHARED, "attention", "prefetch into the tile that is being read", "void load(int tile)", "stage = tile % Shape::kStages", "stage = BUG ? 0 : tile % Shape::kStages"),
    (67, SHARED, "attention", "keys copied past their end", "void load_operand(", "j0, rows.hi, width", "j0, rows.hi + (BUG ? 8 : 0), width"),
    (68, FORWARD, "attention", "diagonal one key too far right", "rows.full_hi) {", "j >= seen[e >> 1].hi", "j >= seen[e >> 1].hi + BUG"),
    (69, FORWARD, "attention", "sum not rescaled to the new maximum", "peak[r] = now;", "sum[r] *= shrink;", "if (!BUG) sum[r] *= shrink;"),
    (70, FORWARD, "attention_decode", "splits weighed alike", "void __launch_bounds__(kCombineThreads)", "o = fmaf(ptx::ex2_approx(parts[s * rows].x - shift)", "o = fmaf(BUG ? 1.f : ptx::ex2_approx(parts[s * rows].x - shift)"),
    (71, FORWARD, "attention_decode", "splits share one tile", "const int tile_begin =", "split / plan.splits", "(split - (BUG && split > 0)) / plan.splits"),
    (72, TILES, "attention", "swizzle forgotten in the second product", "// The layout of an accumulator", "half ^ Layout::swizzle(line)", "half ^ (BUG ? 0 : Layout::swizzle(line))"),
    (73, TILES, "attention_float", "staging read before the warp has written it", "p[n][3]);\n    }", "__syncwarp();", "if (!BUG) __syncwarp();"),
    (74, BACKWARD, "attention", "queries: no barrier when a tile has landed", "query_kernel(AttentionArgs a", "__syncthreads();  // the tile is there", "if (!BUG) __syncthreads();  // the tile is there"),
    (75, BACKWARD, "attention", "keys: facts of queries that do not exist", "key_kernel(AttentionArgs a", "exists = i < queries", "exists = BUG || i < queries"),
    (76, BACKWARD, "attention", "keys: only the first head of a group", "key_kernel(AttentionArgs a", "tiles_per_head * group;", "tiles_per_head * (BUG ? 1 : group);"),
    (77, BACKWARD, "attention_float", "keys: tile overwritten while it is read", "key_kernel(AttentionArgs a", "__syncthreads();  // everyone has left", "if (!BUG) __syncthreads();  // everyone has left"),
    (78, BIAS, "attention_mask", "column sums read without a barrier", "columns[warp * kN", SYNC, f"if (!BUG) {SYNC}"),
    (79, ADDITIVE, "additive_scores", "no barrier before the runs are refilled", "score_kernel(", SYNC, f"if (!BUG) {SYNC}"),
    (80, PERSISTENT, "recurrence_grid", "no barrier before the product", "collect(p, exchange", SYNC, f"if (!BUG) {SYNC}"),
    (81, PERSISTENT, "recurrence_grid", "no barrier after the product", "multiply(p, weights, state, partial);", SYNC, f"if (!BUG) {SYNC}"),
    (82, PERSISTENT, "recurrence_grid", "no barrier before the state is published", "stage[i / U * stage_units + i % U]", SYNC, f"if (!BUG) {SYNC}"),
    (83, EXCHANGE, "recurrence_grid", "does not wait for the others' states", "void collect(", "while (v[j].y != step || v[j].w != step)", "while (!BUG && (v[j].y != step || v[j].w != step))"),
    (84, PERSISTENT, "recurrence_grid", "publishes into the buffer that is being read", "publish(p, reinterpret_cast", "((s + 1) & 1) * buffer", "((s + 1 + BUG) & 1) * buffer"),
    (85, PERSISTENT, "recurrence_grid", "units past the last one take part", "void __launch_bounds__(kThreads, 1)", "if (u >= own || s >= lengths[b]) continue;", "if ((!BUG && u >= own) || s >= lengths[b]) continue;"),
    (86, TEAM, "softmax_cluster", "cluster: sums read before all blocks have written", "*ptx::map_to_rank", "ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);", "if (!BUG) ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);"),
    (87, TEAM, "softmax_cluster", "cluster: another block's memory written before it has started", "float2 reduce(float2 value", "ptx::cluster_wait(SEQLOOM_PASS_SITE_ONLY);", "if (!BUG) ptx::cluster_wait(SEQLOOM_PASS_SITE_ONLY);"),
    (88, TEAM, "softmax_cluster", "kept chunks read before they have landed", "void wait(", "ptx::cp_async_wait<0>(SEQLOOM_PASS_SITE_ONLY);", "if (!BUG) ptx::cp_async_wait<0>(SEQLOOM_PASS_SITE_ONLY);"),
    (89, TEAM, "softmax_cluster", "two threads keep their chunks in one slot", "uint4* slot(int a, int j)", "static_cast<int>(threadIdx.x);", "static_cast<int>(threadIdx.x) / (BUG ? 2 : 1);"),
    (90, NORM, "norm_backward", "sums of a block's teams read without a barrier", "if (!summing) return;", SYNC, f"if (!BUG) {SYNC}"),
    (91, NORM, "norm_backward", "sums of a block's last team left out", "if (!summing) return;", "start < threads;", "start + (BUG ? share : 0) < threads;"),
    (131, EXCHANGE, "recurrence_grid", "judges a pair of packets by the first", "void collect(", "|| v[j].w != step))", "|| (!BUG && v[j].w != step)))"),
    (132, EXCHANGE, "recurrence_grid", "waits for sequences that have ended", "void collect(", "lengths[i / part] > running;", "(BUG || lengths[i / part] > running);"),
    (133, PERSISTENT_BACKWARD, "recurrence_grid", "backward: no barrier before the product", "collect(p, exchange", SYNC, f"if (!BUG) {SYNC}"),
    (134, PERSISTENT_BACKWARD, "recurrence_grid", "backward: no barrier after the product", "multiply(p, weights, state, partial);\n    }", SYNC, f"if (!BUG) {SYNC}"),
    (135, PERSISTENT_BACKWARD, "recurrence_grid", "backward: no barrier before the gates are published", "if (s < 0) break;", SYNC, f"if (!BUG) {SYNC}"),
    (136, PERSISTENT_BACKWARD, "recurrence_grid", "backward: publishes into the buffer that is being read", "publish(p, reinterpret_cast", "((number + 1) & 1) * buffer", "((number + 1 + BUG) & 1) * buffer"),
    (137, PERSISTENT_BACKWARD, "recurrence_grid", "backward: units past the last one take part", "void __launch_bounds__(kThreads, 1)", "if (u >= own || s >= lengths[b]) continue;", "if ((!BUG && u >= own) || s >= lengths[b]) continue;"),
    (138, PERSISTENT_BACKWARD, "recurrence_grid", "backward: gates of a sequence that has not begun are not cleared", "seen backwards, sends zeros.", "i < p.padded_batch * p.state_stride;", "i < p.padded_batch * p.state_stride * (BUG ? 0 : 1);"),
    (139, PERSISTENT_BACKWARD, "recurrence_grid", "backward: columns of the next unit", "void __launch_bounds__(kThreads, 1)", "p.units + unit0 + u;", "p.units + unit0 + u + BUG;"),
    (141, GENERAL, "recurrence_options", "cell: steps past a sequence's length", "lstm_step_kernel(Steps", "if (s >= q.length(b)) return;", "if (!BUG && s >= q.length(b)) return;"),
    (142, GENERAL, "recurrence_options", "show: no check that the unit exists", "show_kernel(Steps", "if (i < q.batch * P &&", "if ((BUG || i < q.batch * P) &&"),
    (143, GENERAL, "recurrence_options", "backward: the first step's state taken from the outputs", "part_kernel(Steps", "if (s > 0) before", "if (BUG || s > 0) before"),
    (144, GENERAL, "recurrence_options", "backward: zoneout's share lost", "part_kernel(Steps", "carry[i] = share * d;", "carry[i] = BUG ? 0.f : share * d;"),
    (145, GENERAL, "recurrence_options", "backward: mean of the thread instead of the row", "Through the norm of the product.", "mean_d = cuda::block_sum(sum_d, scratch)", "mean_d = (BUG ? sum_d : cuda::block_sum(sum_d, scratch))"),
    (146, GENERAL, "recurrence_options", "backward: slots past a length are not cleared", "void rnn_general_backward_cuda", "if (shape.lengths != nullptr) {", "if (!BUG && shape.lengths != nullptr) {"),
    (147, GENERAL, "recurrence_options", "GRU: reset gate of the next unit", "gru_gates_kernel(Steps", "reset[i] = own[0]", "reset[i] = own[BUG]"),
    (151, QUANTIZED, "quantized", "columns past the last one take part", "quantized_linear_kernel(Quant", "if (j >= a.n) return;", "if (!BUG && j >= a.n) return;"),
    (152, QUANTIZED, "quantized", "rows past the last one take part", "quantized_linear_kernel(Quant", "a.m - row0 < kRows ?", "!BUG && a.m - row0 < kRows ?"),
    (153, QUANTIZED, "quantized", "whole pieces at a row's ragged end", "quantized_linear_kernel(Quant", "if (piece * kCount + i < a.k)", "if (BUG || piece * kCount + i < a.k)"),
    (154, QUANTIZED, "quantized", "int8: largest weight of the lane instead of the row", "quantize_int8_kernel(Quant", "top = cuda::warp_max(top);", "if (!BUG) top = cuda::warp_max(top);"),
    (155, QUANTIZED, "quantized", "int4: no check that the group exists", "quantize_int4_kernel(Quant", "if (t >= a.n * groups) return;", "if (!BUG && t >= a.n * groups) return;"),
    (156, CTC, "ctc", "states before and after the sequence are not written", "double forward(", "if (threadIdx.x < 2) {", "if (!BUG && threadIdx.x < 2) {"),
    (157, CTC, "ctc", "last step overwritten before all have read it", "last[q.states - 2];", SYNC, f"if (!BUG) {SYNC}"),
    (158, CTC, "ctc", "posteriors taken from a gradient that is not there yet", "whole - taken * share;", SYNC, f"if (!BUG) {SYNC}"),
    (159, CTC, "ctc", "both steps of beta in one row", "void backward(", "((t + 1) & 1) * q.stride", "((t + 1 + BUG) & 1) * q.stride"),
    (161, ADAFACTOR, "adafactor", "columns: sums of the first block only", "merge_kernel(AdafactorArgs", "b < item.blocks;", "b < (BUG ? 1 : item.blocks);"),
    (162, ADAFACTOR, "adafactor", "mean of the thread instead of the matrix", "merge_kernel(AdafactorArgs", "cuda::block_sum(sum, scratch) /", "(BUG ? sum : cuda::block_sum(sum, scratch)) /"),
    (163, ADAFACTOR, "adafactor", "every lane adds the row's squares", "rows_kernel(AdafactorArgs", "if (cuda::lane_index() == 0)", "if (BUG || cuda::lane_index() == 0)"),
    (164, ADAFACTOR, "adafactor", "last block runs past its item", "this_block(const", "first + item.block < length ?", "BUG || first + item.block < length ?"),
    (166, CACHE, "cache_write", "rows past a sequence's count are written", "cache_write_kernel(Cache", "if (i >= count) continue;", "if (!BUG && i >= count) continue;"),
    (167, CACHE, "cache_write", "rows past the buffer's end are written", "cache_write_kernel(Cache", "count = count < a.room - start", "count = BUG || count < a.room - start"),
    (168, CACHE, "cache_write", "a start that says to leave the row alone is taken", "cache_write_kernel(Cache", "if (start < 0) return;", "if (!BUG && start < 0) return;"),
    (169, WIDENED, "attention_widened", "all heads are the first one", "widen_kernel(Attention", "h * x.head_stride", "h * x.head_stride * (BUG ? 0 : 1)"),
    (170, WIDENED, "attention_widened", "widened past the last element", "widen_kernel(Attention", "if (at >= count) return;", "if (!BUG && at >= count) return;"),
    (171, WIDENED, "attention_widened", "narrowed past the last element", "narrow_kernel(const", "if (at < count)", "if (BUG || at < count)"),
]  # fmt: skip

SWITCH = """#include <cstdlib>
namespace seqloom_mutation {
__attribute__((no_sanitize("thread", "undefined"), noinline)) inline bool is_on(int number) {
  static const int chosen = std::getenv("SEQLOOM_MUTATION") ? std::atoi(std::getenv("SEQLOOM_MUTATION")) : 0;
  return chosen == number;
}
}  // namespace seqloom_mutation
"""


def mutated(file: str) -> str:
    """The file's text with all of its errors, each behind its switch."""
    text = (CSRC / file).read_text(encoding="utf-8")
    for number, where, _, what, before, old, new in MUTATIONS:
        if where != file:
            continue
        start = text.find(before)
        place = text.find(old, start) if start >= 0 else -1
        if place < 0:
            raise LookupError(f"error {number} ({what}): its place in {file} is gone")
        new = new.replace("BUG", f"seqloom_mutation::is_on({number})")
        text = text[:place] + new + text[place + len(old) :]
    if file.endswith(".h"):
        return text.replace("#pragma once\n", "#pragma once\n" + SWITCH_INCLUDE, 1)
    return SWITCH_INCLUDE + text


SWITCH_INCLUDE = '#include "mutation_switch.h"\n'


def commands(build: Path) -> list[str]:
    listing = subprocess.run(
        ["ninja", "-C", str(build), "-t", "commands"], capture_output=True, text=True, check=True
    )
    return listing.stdout.splitlines()


def make_module(build: Path, jobs: int) -> Path:
    """A package folder whose _core has all errors in it; its path goes to PYTHONPATH."""
    overlay = build / "mutations"
    sources = overlay / "csrc"
    shutil.rmtree(sources, ignore_errors=True)  # what no longer has an error would hide the header
    sources.mkdir(parents=True)
    (sources / "mutation_switch.h").write_text("#pragma once\n" + SWITCH)
    files = sorted({m[1] for m in MUTATIONS})
    for file in files:
        target = sources / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(mutated(file), encoding="utf-8")
    link = next(c for c in reversed(commands(build)) if "-shared" in c and "_core" in c)
    link = re.sub(r"^.*?(?=\S*(?:g\+\+|c\+\+)\S* )", "", link).removesuffix(" && :")
    compilations = []
    for command in commands(build):
        found = re.search(r"-o (\S+\.cu\.o) -c (\S+\.cu)", command)
        if not found:
            continue
        source = Path(found[2]).resolve()
        relative = source.relative_to(CSRC).as_posix()
        mine = sources / relative
        # Files without errors of their own still include the headers that have some.
        compiled = mine if relative in files else source
        target = overlay / (relative.replace("/", "_") + ".o")
        words = shlex.split(command)
        words[words.index("-o") + 1] = str(target)
        words[words.index("-c") + 1] = str(compiled)
        first = next(i for i, w in enumerate(words) if w.startswith("-I"))
        words[first:first] = [f"-I{sources}"]
        for flag in ("-MF", "-MT"):
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        words = [w for w in words if w != "-MD"]
        compilations.append(words)
        link = link.replace(found[1], str(target))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda words: subprocess.run(words, cwd=build, check=True), compilations))
    package = overlay / "python" / "seqloom"
    package.mkdir(parents=True, exist_ok=True)
    original = build / "python" / "seqloom"
    for entry in original.iterdir():
        place = package / entry.name
        if place.is_symlink() or place.exists():
            place.unlink()
        if not entry.name.startswith("_core."):
            place.symlink_to(entry.resolve())
    module = next(original.glob("_core.*.so"))
    link = re.sub(r"-o \S*_core\S*\.so", f"-o {package / module.name}", link)
    subprocess.run(shlex.split(link), cwd=build, check=True)
    return package.parent


def outcome(package: Path, case: str, number: int) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "SEQLOOM_MUTATION": str(number)}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "project_cases.py"), case],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hang", ""
    if done.returncode:
        return "crash", done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    kind, run, text = json.loads(done.stdout.splitlines()[-1])
    return f"{kind} ({run})", text


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("builds", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="ask the checked build, write nothing")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args(words)
    modes = ("checked",) if arguments.check else MODES
    if len(arguments.builds) != len(modes):
        parser.error(f"one build folder for each of: {', '.join(modes)}")
    packages = {
        mode: make_module(build.resolve(), arguments.jobs)
        for mode, build in zip(modes, arguments.builds, strict=True)
    }
    cases = sorted({m[2] for m in MUTATIONS})
    tasks = [(mode, case, 0) for case in cases for mode in modes]
    tasks += [(mode, m[2], m[0]) for m in MUTATIONS for mode in modes]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        answers = pool.map(lambda task: outcome(packages[task[0]], task[1], task[2]), tasks)
        found = dict(zip(((mode, case, n) for mode, case, n in tasks), answers, strict=True))
    failures = [
        f"{case} ({mode}): false alarm: {' '.join(found[mode, case, 0])}"
        for case in cases
        for mode in modes
        if not found[mode, case, 0][0].startswith("missed")
    ]
    rows = []
    for number, file, case, what, *_ in MUTATIONS:
        kinds = [found[mode, case, number][0] for mode in modes]
        rows.append([number, Path(file).name, case, what, *kinds])
        shown = "".join(f"{kind:14s}" for kind in kinds)
        print(f"{number:3d} {Path(file).name:26s} {shown} {what}")
        print(f"{'':31s}{found['checked', case, number][1][:200]}", flush=True)
    if not arguments.check:
        with TABLE.open("w", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["number", "file", "case", "what", *MODES])
            writer.writerows(rows)
    for i, mode in enumerate(modes):
        missed = [str(r[0]) for r in rows if r[4 + i].startswith("missed")]
        print(f"{mode}: {len(rows) - len(missed)} of {len(rows)} noticed")
        if mode == "checked" and missed:
            failures.append(f"the checked build misses {', '.join(missed)}")
    print("\n".join(failures) or "no false alarm on the correct kernels")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
