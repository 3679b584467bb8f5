// Which dense gradients are summed together, and when: while the backward pass goes on.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "worker/allreduce.h"
#include "worker/dense_weights.h"

namespace savior {

// Buckets are neighbouring parameters, the last ones first: a model adds its parameters in the
// order in which the forward pass uses them, more or less, and the backward pass ends in the other
// order. A bucket starts when all its gradients and all buckets before it are ready, so all workers
// start the same buckets in the same order, whatever their data. Single-threaded.
class GradientBuckets {
 public:
  // `gradients`: the flat array of `parameters`, where the allreduce wants it. Both it and
  // `allreduce` outlive this. A bucket is closed once it has `bucket_bytes`.
  GradientBuckets(std::span<const DenseWeights::Parameter> parameters, std::span<float> gradients,
                  Allreduce* allreduce, size_t bucket_bytes = size_t{256} << 10);

  // The gradient of a parameter is complete; once per step at most.
  void Ready(size_t parameter);
  // The backward pass is over: parameters that got no gradient are ready, too. Ends the step.
  void StartRest();

  size_t buckets() const { return buckets_.size(); }

 private:
  struct Bucket {
    std::span<float> values;
    size_t parameters = 0;
    size_t missing = 0;  // of them, not ready
  };
  void StartNext();

  Allreduce* const allreduce_;
  std::vector<Bucket> buckets_;    // in the order in which they start
  std::vector<size_t> bucket_of_;  // by parameter
  size_t next_ = 0;                // bucket to start
};

}  // namespace savior
