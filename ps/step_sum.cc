#include "ps/step_sum.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/store_checks.h"
#include "common/value_codec.h"

namespace savior {

void StepSum::Keep(Frame frame) { kept_.push_back({std::move(frame)}); }

absl::StatusOr<std::span<const WritePart>> StepSum::Sum() {
  SAVIOR_RETURN_IF_ERROR(Decode());
  // A worker numbers its messages to a shard in the order of its keys.
  std::vector<const Request*> requests;
  for (const Kept& kept : kept_) requests.push_back(&kept.request);
  std::ranges::sort(requests, {}, [](const Request* request) {
    return std::tuple(request->header.worker, request->header.sequence);
  });
  for (TableSum& sum : sums_) {
    sum.place.clear();
    sum.keys.clear();
    sum.values.clear();
  }
  for (const Request* request : requests) {
    for (const RequestSection& section : request->sections) Add(section, request->header.dtype);
  }
  parts_.clear();
  for (uint32_t t = 0; t < sums_.size(); ++t) {
    const TableSum& sum = sums_[t];
    if (sum.keys.empty()) continue;
    SAVIOR_RETURN_IF_ERROR(CheckPush(tables_, {t, sum.keys, sum.values}));
    parts_.push_back({t, {sum.keys, {}}, sum.values.data()});
  }
  return parts_;
}

absl::Status StepSum::Decode() {
  for (Kept& kept : kept_) {
    SAVIOR_RETURN_IF_ERROR(DecodeRequest(std::as_const(kept.frame).bytes(), &kept.request));
  }
  return absl::OkStatus();
}

void StepSum::Add(const RequestSection& section, ValueDtype dtype) {
  TableSum& sum = sums_[section.table];
  const size_t dim = section.dim;
  floats_.resize(section.keys.size() * dim);
  DecodeValues(dtype, section.values.data(), floats_);
  for (size_t i = 0; i < section.keys.size(); ++i) {
    const float* const grad = floats_.data() + i * dim;
    const auto [entry, fresh] =
        sum.place.try_emplace(section.keys[i], static_cast<uint32_t>(sum.keys.size()));
    if (fresh) {
      sum.keys.push_back(section.keys[i]);
      sum.values.insert(sum.values.end(), grad, grad + dim);
      continue;
    }
    float* const to = sum.values.data() + size_t{entry->second} * dim;
    for (size_t d = 0; d < dim; ++d) to[d] += grad[d];
  }
}

}  // namespace savior
