#include "worker/model/step_tensors.h"

#include <vector>

namespace savior {
namespace {

at::Tensor View(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat);
}

// [rows, as many as there are]; rows == 0: [0, 0].
at::Tensor Indices(const std::vector<int64_t>& values, int64_t rows) {
  const auto size = static_cast<int64_t>(values.size());
  return at::from_blob(const_cast<int64_t*>(values.data()), {rows, rows == 0 ? 0 : size / rows},
                       at::kLong);
}
at::Tensor Indices(const std::vector<int64_t>& values) { return Indices(values, 1).squeeze(0); }

at::Tensor Rows(const Lookup& lookup, int64_t dim) {
  if (lookup.keys.empty()) return {};
  return View(lookup.rows, {static_cast<int64_t>(lookup.keys.size()), dim});
}

}  // namespace

std::array<at::Tensor*, 20> StepTensors::all() {
  return {&user,
          &item,
          &feature,
          &align,
          &content_vector,
          &prefix,
          &z,
          &user_of_row,
          &item_of_row,
          &item_of_position,
          &content_of_item,
          &features_of_item,
          &context_of_row,
          &codes_of_content,
          &prefixes_of_content,
          &numerics,
          &clicks,
          &conversions,
          &history_begin,
          &history_length};
}

StepTensors HostTensors(const StepInputs& in, const StepShape& shape) {
  StepTensors t;
  t.user = Rows(in.user, shape.id_dim);
  t.item = Rows(in.item, shape.id_dim);
  t.feature = Rows(in.feature, shape.feature_dim);
  t.align = Rows(in.align, shape.modal);
  t.content_vector = Rows(in.content_vector, shape.modal);
  t.prefix = Rows(in.prefix, shape.modal);
  if (shape.content) t.z = View(in.z, {static_cast<int64_t>(in.content_keys.size()), shape.modal});
  t.user_of_row = Indices(in.user_of_row);
  t.item_of_row = Indices(in.item_of_row);
  t.item_of_position = Indices(in.item_of_position);
  t.content_of_item = Indices(in.content_of_item);
  t.features_of_item = Indices(in.features_of_item, shape.features);
  t.context_of_row = Indices(in.context_of_row, shape.context);
  t.codes_of_content = Indices(in.codes_of_content, shape.levels);
  t.prefixes_of_content = Indices(in.prefixes_of_content, shape.prefixes);
  t.numerics = View(in.numerics, {in.batch.rows(), shape.numerics});
  t.clicks = View(in.batch.clicks, {in.batch.rows()});
  t.conversions = View(in.batch.conversions, {in.batch.rows()});
  return t;
}

}  // namespace savior
