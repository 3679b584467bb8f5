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
  kContentTable,        // "content"         content key  z, then its codes as floats; frozen
  kModelTables
};

// `user` and `item` have the rules of admission and eviction of config.ps; all learned tables its
// dtype and what it says about bad gradients.
//
// A content's key is the id of its first item: stable when the log is prepared again with more
// items.
std::vector<TableSpec> ModelTables(const Config& config);

// Of value `value` of categorical feature `name`: a hash of both, stable over logs.
uint64_t FeatureKey(std::string_view name, std::string_view value);

constexpr uint64_t AlignKey(uint32_t level, uint32_t code) {
  return (uint64_t{level} << 32) | code;
}

// Length of a row of the content table: z and the codes, padded to a multiple of 4.
constexpr uint32_t ContentRowDim(uint32_t dim, uint32_t levels) {
  return dim + (levels + 3) / 4 * 4;
}

}  // namespace savior
