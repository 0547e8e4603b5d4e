// SPDX-License-Identifier: Apache-2.0
// Weights as the forward recurrence reads them: panels that interleave the gates of the same units,
// so that a tile holds all gates of its units. Included by ISA files only.
#pragma once

#include "ops/rnn/rnn_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {

// One cell's tile: kGates vectors of pre-activations for each of kUnitVecs vectors of units.
template <CellKind kKind>
struct Layout {
  static constexpr int kGates = ops::gate_count(kKind);
  static constexpr int kUnitVecs = kGates == 1 ? 4 : 1;
  static constexpr int kVecs = kGates * kUnitVecs;
  static constexpr int kRows = kTileRegisters / kVecs;
  static constexpr int64_t kUnits = static_cast<int64_t>(kUnitVecs) * kLanes;  // of a panel
};

// Elements of W for one k (or one pair of k) of a panel.
template <class L>
constexpr int64_t kPanelWidth = L::kVecs * static_cast<int64_t>(kLanes);

// panel[k][gate][unit] = w[gate H + unit][k] of w [G H, depth], zero past the last unit; bf16:
// pairs of k in a word.
template <class L, class T, class W>
void pack_panel(const T* w, int64_t units, int64_t depth, int64_t first, W* panel) {
  constexpr int64_t width = kPanelWidth<L>;
  for (int g = 0; g < L::kGates; ++g) {
    for (int64_t u0 = 0; u0 < L::kUnits; u0 += kLanes) {
      const int64_t unit = first + u0;
      const int live = static_cast<int>(unit >= units ? 0 : min<int64_t>(kLanes, units - unit));
      W* column = panel + g * L::kUnits + u0;
      const T* source = w + (g * units + unit) * depth;
      // kLanes x kLanes blocks, transposed; words are moved as they are.
      const auto transposed = [&](int64_t count, const auto& line) {
        for (int64_t k = 0; k < count; k += kLanes) {
          const int some = static_cast<int>(min<int64_t>(kLanes, count - k));
          VecF block[kLanes];
          for (int l = 0; l < kLanes; ++l)
            block[l] = l < live ? get(line(l) + k, some) : VecF::zero();
          transpose(block);
          for (int j = 0; j < some; ++j)
            store(reinterpret_cast<float*>(column + (k + j) * width), block[j]);
        }
      };
      if constexpr (kPairWords<W>) {
        if (depth % 2 == 0) {
          transposed(depth / 2,
                     [&](int l) { return reinterpret_cast<const float*>(source + l * depth); });
          continue;
        }
        for (int64_t k = 0; k < panel_rows<W>(depth); ++k)
          for (int l = 0; l < kLanes; ++l) {
            uint32_t word = 0;
            if (l < live) {
              word = source[l * depth + 2 * k].bits;
              if (2 * k + 1 < depth)
                word |= static_cast<uint32_t>(source[l * depth + 2 * k + 1].bits) << 16;
            }
            column[k * width + l] = word;
          }
      } else {
        transposed(depth, [&](int l) { return source + l * depth; });
      }
    }
  }
}

template <class L, class T, class W>
void pack_weight(const T* w, int64_t units, int64_t depth, W* panels) {
  const int64_t size = panel_rows<W>(depth) * kPanelWidth<L>;
  const int64_t grain = max<int64_t>(1, 65536 / max<int64_t>(1, size));
  cpu::parallel_for((units + L::kUnits - 1) / L::kUnits, grain, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      pack_panel<L>(w, units, depth, p * L::kUnits, panels + p * size);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
