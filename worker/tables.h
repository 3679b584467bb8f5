// The sparse tables of a SaviorRec model, and their keys.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/store.h"

namespace savior {

// Indices into ModelTables(). Every arm has all tables; those it does not use stay empty.
enum ModelTable : uint32_t {
  // Each with its name, key and row.
  kUserTable,           // "user"            user id      id_dim
  kItemTable,           // "item"            item id      id_dim
  kFeatureTable,        // "feature"         FeatureKey   feature_dim
  kAlignTable,          // "align"           AlignKey     encoder.dim, from 0 (SaviorRec's A_l)
  kContentVectorTable,  // "content_vector"  content key  encoder.dim, from 0 (hybrid, free_content)
  kContentTable,        // "content"         content key  ContentLayout: z and codes; frozen
  kModelTables,
  // Only with model.prefix_ngrams.
  kPrefixTable = kModelTables,  // "prefix"  PrefixKey    encoder.dim, from 0
};

// `user`, `item` and `prefix` have the rules of admission and eviction of config.ps, `prefix` only
// those that look at a row alone: no capacity, no floor, all that is due in a minute. So what a
// build leaves that was given up decides about no other row. All learned tables have its dtype and
// what it says about bad gradients.
//
// A content's key is the id of its first item: stable when the log is prepared again with more
// items.
std::vector<TableSpec> ModelTables(const Config& config);

// Of value `value` of categorical feature `name`: a hash of both, stable over logs.
uint64_t FeatureKey(std::string_view name, std::string_view value);

// While a codebook is replaced, codes and alignment rows of its next version lie beside those in
// use. Version v has slot v % 2: the space is that of two versions for ever, and what v has left in
// its slot is v + 2's to replace.
inline constexpr uint32_t kCodebookSlots = 2;

constexpr uint32_t CodebookSlot(uint32_t version) { return version % kCodebookSlots; }

// slot << 48 | level << 32 | code; level < 2^16.
constexpr uint64_t AlignKey(uint32_t version, uint32_t level, uint32_t code) {
  return (uint64_t{CodebookSlot(version)} << 48) | (uint64_t{level} << 32) | code;
}

// Whose AlignKey it is: a slot.
constexpr uint64_t SlotOfAlignKey(uint64_t key) { return key >> 48; }

// The key where one version is alone, as in a bundle: that of version 0.
constexpr uint64_t WithoutSlot(uint64_t align_key) { return align_key & ((uint64_t{1} << 48) - 1); }

// Prefixes of codes are many, mostly rare, and come and go with the codes: their keys say which
// build of a codebook they are of, and are never used again. A build has a number of its own even
// if it was given up (CodebookState::builds); the codes that a run begins with have 0.
//
// build << 48 | length - 1 << 45 | the codes as digits, the first one leading; 2 <= length
// <= 8. Needs codes ^ levels <= 2^45.
inline constexpr int kPrefixBits = 45;
// After so many no other is begun: its keys would be those of an earlier one.
inline constexpr uint32_t kMostBuilds = 0xffff;

constexpr uint64_t PrefixKey(uint32_t build, uint32_t length, uint64_t number) {
  return (uint64_t{build} << 48) | (uint64_t{length - 1} << kPrefixBits) | number;
}

// Whether it is a prefix of `build`.
constexpr bool IsOfBuild(uint64_t prefix_key, uint32_t build) { return prefix_key >> 48 == build; }

// The key where one build is alone, as in a bundle: that of build 0.
constexpr uint64_t WithoutBuild(uint64_t prefix_key) {
  return prefix_key & ((uint64_t{1} << 48) - 1);
}

// Calls add(key) for the prefixes of `codes` (something like a span of numbers), shortest first:
// of two codes, of three, ... of all. `num_codes`: K.
template <typename Codes, typename Add>
constexpr void ForEachPrefix(uint32_t build, const Codes& codes, uint64_t num_codes,
                             const Add& add) {
  uint64_t number = 0;
  for (size_t l = 0; l < codes.size(); ++l) {
    number = number * num_codes + static_cast<uint64_t>(codes[l]);
    if (l > 0) add(PrefixKey(build, static_cast<uint32_t>(l) + 1, number));
  }
}

// How many prefixes a content has.
inline size_t PrefixesOf(const Config& config) {
  return config.model.prefix_ngrams ? static_cast<size_t>(config.codebook.levels) - 1 : 0;
}

// A row of the content table: z, the codes of slot 0, those of slot 1, padded to a multiple of 4. A
// code is a float, and exact. Where the encoder may be refreshed with the codebook there is a z for
// each slot, in front.
struct ContentLayout {
  size_t dim = 0;  // of z
  size_t levels = 0;
  bool z_per_slot = false;

  static ContentLayout Of(const Config& config) {
    return {static_cast<size_t>(config.encoder.dim), static_cast<size_t>(config.codebook.levels),
            config.encoder.refreshable};
  }
  // Floats of a row.
  constexpr size_t row() const {
    return (z_per_slot ? kCodebookSlots : 1) * dim + (kCodebookSlots * levels + 3) / 4 * 4;
  }
  // Where z and the codes of codebook version `version` begin in it.
  constexpr size_t z(uint32_t version) const {
    return z_per_slot ? CodebookSlot(version) * dim : 0;
  }
  constexpr size_t codes(uint32_t version) const {
    return (z_per_slot ? kCodebookSlots : 1) * dim + CodebookSlot(version) * levels;
  }
};

}  // namespace savior
