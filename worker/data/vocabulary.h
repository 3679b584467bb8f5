// Strings -> codes, most frequent first, counted in one pass.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/data/raw.h"

namespace savior {

// Gives provisional codes in order of appearance; Finish orders them. Single-threaded.
class VocabularyBuilder {
 public:
  // Provisional codes of a batch into `codes` [rows]: 0 for missing and empty, else >= 1. Returns
  // the first row whose text is not UTF-8, if any.
  [[nodiscard]] std::optional<int64_t> Encode(const RawText& text, std::span<int32_t> codes);

  struct Result {
    std::vector<std::string> values;  // final code -> string; [0] = "", then most frequent first
    std::vector<int32_t> final_code;  // provisional code -> final code; [0] = 0
  };
  // Ties in frequency are ordered by string, so the order of the rows does not matter.
  Result Finish() const;

 private:
  int32_t Add(std::string_view value);

  std::deque<std::string> values_;  // provisional code - 1 -> string; a deque: addresses stay
  std::vector<int64_t> counts_;     // provisional code - 1 -> occurrences
  absl::flat_hash_map<std::string_view, int32_t> codes_;  // views into values_
  std::vector<int32_t> batch_codes_;                      // scratch of Encode
};

}  // namespace savior
