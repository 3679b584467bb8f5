#include "worker/model/pca.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

#include "worker/model/trainable_mlp.h"

namespace savior {

PrincipalComponents::PrincipalComponents(int dim)
    : dim_(dim),
      sum_(static_cast<size_t>(dim)),
      second_(static_cast<size_t>(dim) * static_cast<size_t>(dim)) {}

void PrincipalComponents::Add(std::span<const float> rows) {
  const auto n = static_cast<int64_t>(rows.size()) / dim_;
  if (n == 0) return;
  const at::NoGradGuard no_grad;
  const at::Tensor x = FromHost(rows, {n, dim_}).to(at::kDouble);
  at::from_blob(sum_.data(), {dim_}, at::kDouble).add_(x.sum(0));
  at::from_blob(second_.data(), {dim_, dim_}, at::kDouble).add_(at::matmul(x.t(), x));
  rows_ += n;
}

Components PrincipalComponents::Find(int keep, bool centred) const {
  CHECK(keep >= 1 && keep <= dim_);
  const at::NoGradGuard no_grad;
  const double n = std::max<double>(1.0, static_cast<double>(rows_));
  at::Tensor mean = at::zeros({dim_}, at::kDouble);
  at::Tensor moment = at::zeros({dim_, dim_}, at::kDouble);
  std::copy(second_.begin(), second_.end(), moment.data_ptr<double>());
  moment.div_(n);
  if (centred && rows_ >= 2) {
    std::copy(sum_.begin(), sum_.end(), mean.data_ptr<double>());
    mean.div_(n);
    moment.sub_(at::outer(mean, mean));
  }
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(moment));  // columns by rising eigenvalue
  at::Tensor basis = vectors.flip({1}).narrow(1, 0, keep).contiguous();
  const at::Tensor largest = basis.abs().argmax(0, /*keepdim=*/true);
  basis.mul_(at::where(basis.gather(0, largest).lt(0.0), -1.0, 1.0));
  return {ToHost(mean), ToHost(basis)};
}

}  // namespace savior
