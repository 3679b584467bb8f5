#include "worker/gradient_buckets.h"

namespace savior {

GradientBuckets::GradientBuckets(std::span<const DenseWeights::Parameter> parameters,
                                 std::span<float> gradients, Allreduce* allreduce,
                                 size_t bucket_bytes)
    : allreduce_(allreduce), bucket_of_(parameters.size()) {
  for (size_t p = parameters.size(); p-- > 0;) {
    if (buckets_.empty() || buckets_.back().values.size_bytes() >= bucket_bytes) {
      buckets_.emplace_back();
    }
    Bucket& bucket = buckets_.back();
    const auto size = static_cast<size_t>(parameters[p].size) + bucket.values.size();
    bucket.values = gradients.subspan(static_cast<size_t>(parameters[p].offset), size);
    bucket.missing = ++bucket.parameters;
    bucket_of_[p] = buckets_.size() - 1;
  }
}

void GradientBuckets::StartNext() {
  allreduce_->Start(buckets_[next_].values);
  ++next_;
}

void GradientBuckets::Ready(size_t parameter) {
  --buckets_[bucket_of_[parameter]].missing;
  while (next_ < buckets_.size() && buckets_[next_].missing == 0) StartNext();
}

void GradientBuckets::StartRest() {
  while (next_ < buckets_.size()) StartNext();
  next_ = 0;
  for (Bucket& bucket : buckets_) bucket.missing = bucket.parameters;
}

}  // namespace savior
