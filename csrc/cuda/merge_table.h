// Packing a merge into kernel parameters, on the host.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/merge.cuh"

namespace edufast::cuda {

inline int merge_entries(const MergeItem& item) { return item.rule == Rule::Moments ? 2 : 1; }

// How many entries fit: 976 with one list of sources, 537 with four.
template <class Table>
constexpr int merge_capacity(int num_sources) {
  const size_t bytes = sizeof(MergeEntry) + num_sources * (sizeof(MergeSlot) + sizeof(DType));
  return static_cast<int>(Table::kBytes / bytes);
}

// Packs as many items as fit, from `first` on; returns the first that does not.
template <class Table>
int64_t pack_merge(const Merge& p, int64_t first, Table& table) {
  MergeHeader& h = table.header;
  h = {0, 0, p.num_sources, p.keep, {}, {}};
  std::copy_n(p.weights, p.num_sources, h.weights);
  std::copy_n(p.moment_weights, p.num_sources, h.moment_weights);

  int64_t last = first;
  for (const int capacity = merge_capacity<Table>(p.num_sources); last < p.num_items; ++last) {
    if (h.num_entries + merge_entries(p.items[last]) > capacity) break;
    h.num_entries += merge_entries(p.items[last]);
  }

  auto* entries = reinterpret_cast<MergeEntry*>(table.bytes);
  auto* slots = reinterpret_cast<MergeSlot*>(entries + h.num_entries);
  auto* types = reinterpret_cast<DType*>(slots + int64_t{h.num_entries} * p.num_sources);
  const auto put = [&](const MergeItem& item, void* data, DType type, const MergeSource* sources) {
    MergeEntry entry{static_cast<char*>(data),
                     item.size,
                     h.num_tiles,
                     item.rule,
                     type,
                     is_copy(p, item),
                     reinterpret_cast<uintptr_t>(data) % 16 == 0};
    for (int n = 0; n < p.num_sources; ++n, ++slots, ++types) {
      if (item.rule == Rule::Fill) {
        slots->fill = item.fill;
        continue;
      }
      slots->source = static_cast<const char*>(sources[n].data);
      *types = sources[n].type;
      entry.vectors &= reinterpret_cast<uintptr_t>(sources[n].data) % 16 == 0;
    }
    *entries++ = entry;
  };
  for (int64_t i = first; i < last; ++i) {
    const MergeItem& item = p.items[i];
    put(item, item.data, item.type, item.sources);
    h.num_tiles += static_cast<int>((item.size + kMergeTile - 1) / kMergeTile);
    // Begins where the next item does, and so is never found by a tile.
    if (item.rule == Rule::Moments)
      put(item, item.variance, item.variance_type, item.sources + p.num_sources);
  }
  return last;
}

}  // namespace edufast::cuda
