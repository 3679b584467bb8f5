#include "worker/data/vocabulary.h"

#include <arrow/util/utf8.h>

#include <algorithm>
#include <numeric>

namespace savior {
namespace {

constexpr int32_t kUnseen = -1;
constexpr int32_t kNotUtf8 = -2;

}  // namespace

std::optional<int64_t> VocabularyBuilder::Encode(const RawText& text, std::span<int32_t> codes) {
  // A value is looked up once per batch, however often a dictionary refers to it.
  batch_codes_.assign(text.values.size(), kUnseen);
  for (size_t row = 0; row < text.codes.size(); ++row) {
    if (text.codes[row] < 0) {
      codes[row] = 0;
      continue;
    }
    const auto value = static_cast<size_t>(text.codes[row]);
    int32_t& code = batch_codes_[value];
    if (code == kUnseen) code = Add(text.values[value]);
    if (code == kNotUtf8) return static_cast<int64_t>(row);
    codes[row] = code;
    if (code > 0) ++counts_[static_cast<size_t>(code) - 1];
  }
  return std::nullopt;
}

int32_t VocabularyBuilder::Add(std::string_view value) {
  if (value.empty()) return 0;
  if (const auto found = codes_.find(value); found != codes_.end()) return found->second;
  arrow::util::InitializeUTF8();
  if (!arrow::util::ValidateUTF8(value)) return kNotUtf8;
  values_.emplace_back(value);
  counts_.push_back(0);
  const auto code = static_cast<int32_t>(values_.size());
  codes_.emplace(values_.back(), code);
  return code;
}

VocabularyBuilder::Result VocabularyBuilder::Finish() const {
  std::vector<size_t> order(values_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [this](size_t a, size_t b) {
    return counts_[a] != counts_[b] ? counts_[a] > counts_[b] : values_[a] < values_[b];
  });
  Result result;
  result.values.emplace_back();
  result.final_code.assign(values_.size() + 1, 0);
  for (const size_t value : order) {
    result.final_code[value + 1] = static_cast<int32_t>(result.values.size());
    result.values.push_back(values_[value]);
  }
  return result;
}

}  // namespace savior
