#include "ps/admission.h"

#include <absl/strings/str_cat.h>

#include <utility>

#include "common/random.h"
#include "common/routing.h"

namespace savior {

Admission::Admission(const TableSpec& spec, uint32_t number, uint64_t seed)
    : spec_(spec.admission),
      number_(number),
      // Not the stream of the table's initial rows.
      stream_(MixTwo(seed ^ HashName("admission"), HashName(spec.name))),
      buckets_(spec.admission.kind == AdmissionKind::kCount ? kBuckets : 0),
      bytes_(sizeof(*this) + buckets_.capacity() * sizeof(buckets_[0])) {}

bool Admission::Admit(uint64_t key, int64_t step) {
  const bool admitted = Decide(key, step);
  ++(admitted ? admitted_ : refused_);
  return admitted;
}

bool Admission::Decide(uint64_t key, int64_t step) {
  switch (spec_.kind) {
    case AdmissionKind::kAll:
      return true;
    case AdmissionKind::kProbability:
      return ToUnit(MixTwo(MixTwo(stream_, key), static_cast<uint64_t>(step))) <
             static_cast<double>(spec_.probability);
    case AdmissionKind::kCount:
      return Count(key);
  }
  return true;
}

bool Admission::Count(uint64_t key) {
  std::unique_ptr<KeyCounts>& counts = buckets_[BucketOf(number_, key)];
  if (counts == nullptr) {
    counts = std::make_unique<KeyCounts>(spec_.count);
    bytes_ += counts->bytes();
  }
  bytes_ -= counts->bytes();
  const bool admitted = counts->Push(MixTwo(stream_, key));
  bytes_ += counts->bytes();
  return admitted;
}

std::vector<Admission::SavedBucket> Admission::Save() const {
  std::vector<SavedBucket> saved;
  for (uint32_t b = 0; b < buckets_.size(); ++b) {
    // One whose keys were all admitted differs from a new one only in its hand, which counts when
    // the bucket is full: but bit-identical is bit-identical.
    if (buckets_[b] == nullptr) continue;
    buckets_[b]->Encode(&saved.emplace_back(SavedBucket{b, {}}).bytes);
  }
  return saved;
}

absl::Status Admission::Load(uint32_t bucket, std::string_view bytes) {
  if (bucket >= kBuckets) {
    return absl::DataLossError(absl::StrCat("admission: there is no bucket ", bucket));
  }
  absl::StatusOr<KeyCounts> counts = KeyCounts::Decode(bytes);
  if (!counts.ok()) {
    return Annotate(counts.status(), absl::StrCat("admission: bucket ", bucket));
  }
  if (buckets_.empty() || counts->limit() != spec_.count) return absl::OkStatus();
  if (buckets_[bucket] != nullptr) bytes_ -= buckets_[bucket]->bytes();
  buckets_[bucket] = std::make_unique<KeyCounts>(*std::move(counts));
  bytes_ += buckets_[bucket]->bytes();
  return absl::OkStatus();
}

}  // namespace savior
