#include "worker/model/attention.h"

#include <torch/torch.h>

#include <utility>
#include <vector>

namespace savior {
namespace {

using torch::autograd::variable_list;

constexpr size_t kInputs = 8;

const float* Data(const at::Tensor& tensor) { return tensor.data_ptr<float>(); }

AttentionInputs Pointers(const variable_list& v) {
  return {Data(v[0]), Data(v[1]), Data(v[2]), Data(v[3]),
          Data(v[4]), Data(v[5]), Data(v[6]), Data(v[7])};
}

// Keeps the shape beside the saved tensors.
struct ShapeHolder : torch::CustomClassHolder {
  std::shared_ptr<const AttentionShape> shape;
};

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context,
                            std::shared_ptr<const AttentionShape> shape,
                            const at::Tensor& query_modal, const at::Tensor& history_modal,
                            const at::Tensor& query, const at::Tensor& history,
                            const at::Tensor& query_hidden, const at::Tensor& history_hidden,
                            const at::Tensor& product, const at::Tensor& score) {
    variable_list inputs = {query_modal,  history_modal,  query,   history,
                            query_hidden, history_hidden, product, score};
    for (at::Tensor& tensor : inputs) tensor = tensor.contiguous();
    at::Tensor out = at::empty({shape->rows(), shape->out()}, query.options().requires_grad(false));
    at::Tensor weights = at::empty({shape->pairs() * (shape->modal == 0 ? 1 : 2)}, out.options());
    AttentionForward(*shape, Pointers(inputs), out.data_ptr<float>(), weights.data_ptr<float>());
    inputs.push_back(weights);
    context->save_for_backward(std::move(inputs));
    auto holder = c10::make_intrusive<ShapeHolder>();
    holder->shape = std::move(shape);
    context->saved_data["shape"] = c10::IValue::make_capsule(std::move(holder));
    return out;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list d_out) {
    const variable_list saved = context->get_saved_variables();
    const auto holder =
        c10::static_intrusive_pointer_cast<ShapeHolder>(context->saved_data["shape"].toCapsule());
    variable_list grads(1 + kInputs);  // the shape has none
    for (size_t i = 0; i < kInputs; ++i) grads[1 + i] = at::zeros_like(saved[i]);
    const auto to = [&grads](size_t i) { return grads[i].data_ptr<float>(); };
    const at::Tensor d = d_out[0].contiguous();
    AttentionBackward(*holder->shape, Pointers(saved), saved[kInputs].data_ptr<float>(),
                      d.data_ptr<float>(),
                      {to(1), to(2), to(3), to(4), to(5), to(6), to(7), to(8)});
    return grads;
  }
};

}  // namespace

at::Tensor BiTargetAttention(std::shared_ptr<const AttentionShape> shape,
                             const AttentionTensors& in) {
  // Autograd functions do not take undefined tensors: without modal scores these are empty.
  const at::Tensor none = at::empty({0}, in.query.options().requires_grad(false));
  const bool modal = shape->modal > 0;
  return AttentionFunction::apply(std::move(shape), modal ? in.query_modal : none,
                                  modal ? in.history_modal : none, in.query, in.history,
                                  in.query_hidden, in.history_hidden, in.product, in.score);
}

at::Tensor BiTargetAttentionReference(const AttentionShape& shape, const AttentionTensors& in) {
  std::vector<at::Tensor> outs;
  for (size_t r = 0; r + 1 < shape.row_offsets.size(); ++r) {
    const auto rows = [&](const at::Tensor& t) {
      return t.slice(0, shape.row_offsets[r], shape.row_offsets[r + 1]);
    };
    const auto positions = [&](const at::Tensor& t) {
      return t.slice(0, shape.history_offsets[r], shape.history_offsets[r + 1]);
    };
    const int64_t n = shape.row_offsets[r + 1] - shape.row_offsets[r];
    if (shape.history_offsets[r] == shape.history_offsets[r + 1]) {
      outs.push_back(at::zeros({n, shape.out()}, in.query.options().requires_grad(false)));
      continue;
    }
    const at::Tensor h = positions(in.history);
    const at::Tensor products = rows(in.query).unsqueeze(1) * h.unsqueeze(0);  // [n, t, behaviour]
    const at::Tensor hidden =
        at::relu(rows(in.query_hidden).unsqueeze(1) + positions(in.history_hidden).unsqueeze(0) +
                 at::matmul(products, in.product.t()));
    const at::Tensor p_b = at::softmax(at::matmul(hidden, in.score), 1);  // [n, t]
    if (shape.modal == 0) {
      outs.push_back(p_b.mm(h));
      continue;
    }
    const at::Tensor m = positions(in.history_modal);
    const at::Tensor p_m = at::softmax(rows(in.query_modal).mm(m.t()), 1);
    outs.push_back(at::cat({p_m.mm(m), p_m.mm(h), p_b.mm(m), p_b.mm(h)}, 1));
  }
  return at::cat(outs, 0);
}

}  // namespace savior
