#include "tests/serving/ranker_request.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/tables.h"

namespace savior {
namespace {

using Matrix = std::vector<float>;

int64_t Below(Random* random, int64_t n) {
  return static_cast<int64_t>(random->Below(static_cast<uint64_t>(n)));
}

Matrix Normals(int64_t n, double scale, Random* random) {
  Matrix values(static_cast<size_t>(n));
  for (float& v : values) v = static_cast<float>(scale * random->Normal());
  return values;
}

std::vector<uint64_t> Keys(int64_t n) {
  std::vector<uint64_t> keys;
  for (int64_t i = 0; i < n; ++i) keys.push_back(static_cast<uint64_t>(1000 + i));
  return keys;
}

std::vector<int64_t> Numbers(int64_t n, int64_t below, Random* random) {
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < n; ++i) numbers.push_back(Below(random, below));
  return numbers;
}

// Row `index` of `rows` [n, dim], or zeros beyond the last, at the end of `to`.
void AppendRow(const Matrix& rows, int64_t dim, int64_t index, Matrix* to) {
  for (int64_t d = 0; d < dim; ++d) {
    const auto at = static_cast<size_t>(index * dim + d);
    to->push_back(at < rows.size() ? rows[at] : 0.0f);
  }
}

void FillRows(const RankerCase& model, int64_t contents, Random* random, StepInputs* in) {
  const Config::Model& m = model.config.model;
  const Arm arm = ArmOf(m.arm);
  const int64_t modal = model.config.encoder.dim, features = 5, codes = 8, prefixes = 9;
  in->user.keys = Keys(1);
  in->user.rows = Normals(m.id_dim, 1, random);
  in->item.rows = Normals(static_cast<int64_t>(in->item.keys.size()) * m.id_dim, 1, random);
  if (model.sizes.features + model.sizes.context > 0) {
    in->feature.keys = Keys(features);
    in->feature.rows = Normals(features * m.feature_dim, 1, random);
  }
  if (!arm.content && !arm.uses_codes()) return;
  in->content_keys = Keys(contents);
  in->z = Normals(contents * modal, 1, random);
  for (int64_t c = 0; c < contents; ++c) {
    float* const z = in->z.data() + c * modal;
    float squares = 0;
    for (int64_t d = 0; d < modal; ++d) squares += z[d] * z[d];
    for (int64_t d = 0; d < modal; ++d) z[d] /= std::sqrt(squares);
  }
  if (arm.uses_codes() && contents > 0) {
    in->align.keys = Keys(codes);
    in->align.rows = Normals(codes * modal, 0.3, random);
    in->codes_of_content = Numbers(model.config.codebook.levels * contents, codes, random);
    if (const auto lengths = static_cast<int64_t>(PrefixesOf(model.config)); lengths > 0) {
      in->prefix.keys = Keys(prefixes);
      in->prefix.rows = Normals(prefixes * modal, 0.3, random);
      in->prefixes_of_content = Numbers(lengths * contents, prefixes, random);
    }
  }
  if (arm.free_content || (arm.alignment && m.alignment == "hybrid")) {
    in->content_vector.keys = in->content_keys;
    in->content_vector.rows = Normals(contents * modal, 0.3, random);
    for (int64_t c = 0; c < contents; ++c) {
      in->content_vector.updates.push_back(static_cast<uint32_t>(Below(random, 30)));
    }
  }
}

// The graph's inputs of items [number in `step`] under `prefix` and their names.
void FillItems(const RankerCase& model, const StepInputs& in, const Matrix& aligned,
               const std::vector<int64_t>& items, const std::string& prefix,
               const std::string& item, std::map<std::string, Matrix>* inputs) {
  const Config::Model& m = model.config.model;
  const int64_t modal = model.config.encoder.dim;
  const auto contents = static_cast<int64_t>(in.content_keys.size());
  const int64_t featured =
      model.sizes.features == 0
          ? 0
          : static_cast<int64_t>(in.features_of_item.size()) / model.sizes.features;
  for (const int64_t i : items) {
    AppendRow(in.item.rows, m.id_dim, i, &(*inputs)[prefix + item]);
    const int64_t content = in.content_of_item[static_cast<size_t>(i)];
    AppendRow(aligned, modal, content, &(*inputs)[prefix + "aligned"]);
    AppendRow(in.z, modal, content, &(*inputs)[prefix + "content"]);
    const auto append_rows = [&](const Lookup& of, const std::vector<int64_t>& of_content,
                                 int64_t parts) {
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t row = content < contents && !of.keys.empty()
                                ? of_content[static_cast<size_t>(p * contents + content)]
                                : static_cast<int64_t>(of.keys.size());
        AppendRow(of.rows, modal, row, &(*inputs)[prefix + "codes"]);
      }
    };
    append_rows(in.align, in.codes_of_content, model.config.codebook.levels);
    append_rows(in.prefix, in.prefixes_of_content, static_cast<int64_t>(PrefixesOf(model.config)));
    for (int64_t f = 0; f < model.sizes.features && i < featured; ++f) {
      AppendRow(in.feature.rows, m.feature_dim,
                in.features_of_item[static_cast<size_t>(f * featured + i)],
                &(*inputs)[prefix + "features"]);
    }
  }
}

RankerCase SmallCase(const std::string& arm) {
  RankerCase model{.name = arm, .config = {}, .sizes = {2, 1, 3}};
  model.config.model.arm = arm;
  model.config.model.id_dim = 8;
  model.config.model.feature_dim = 4;
  model.config.model.attention_hidden = 4;
  model.config.model.dnn = std::string("16");  // g++ 12 warns falsely of an assigned literal
  model.config.model.tower = std::string("8");
  model.config.model.fusion_hidden = 8;
  model.config.encoder.dim = 12;
  model.config.codebook.levels = 2;
  return model;
}

}  // namespace

std::vector<RankerCase> RankerCases() {
  std::vector<RankerCase> cases;
  const auto add = [&](const std::string& arm, const std::string& name, auto change) {
    cases.push_back(SmallCase(arm));
    if (!name.empty()) cases.back().name += "_" + name;
    change(cases.back());
  };
  for (const std::string arm : kArms) {
    add(arm, "", [](RankerCase&) {});
    // Widths that fill no register, and a second hidden layer.
    add(arm, "odd", [](RankerCase& c) {
      c.config.model.id_dim = 7;
      c.config.encoder.dim = 5;
      c.config.model.feature_dim = 3;
      c.config.model.attention_hidden = 3;
      c.config.model.dnn = std::string("33,9");
      c.config.model.tower = std::string("17,2");
      c.config.model.behaviour_features = true;
      c.config.model.simtier = false;
      c.config.model.alignment = std::string("codes");
      c.config.codebook.levels = 3;
      c.sizes = {3, 2, 1};
    });
    // No side information at all, and no hidden layers.
    add(arm, "bare", [](RankerCase& c) {
      c.config.model.behaviour_features = true;
      c.config.model.dnn.clear();
      c.config.model.tower.clear();
      c.sizes = {};
    });
  }
  for (const std::string arm : {"sid", "savior"}) {
    add(arm, "prefixes", [](RankerCase& c) {
      c.config.model.prefix_ngrams = true;
      c.config.codebook.levels = 3;
    });
  }
  return cases;
}

RankerCase DefaultCase(const std::string& arm) {
  RankerCase model{.name = arm, .config = {}, .sizes = {6, 3, 6}};
  model.config.model.arm = arm;
  return model;
}

Ranker RandomRanker(const RankerCase& model, int64_t seed) {
  RankerCase seeded = model;
  seeded.config.seed = seed;
  Ranker ranker(seeded.config, {model.sizes.features, model.sizes.context, model.sizes.numerics});
  // As initialised, each layer's values are 0.4 of its inputs: what a request says would hardly
  // reach its scores.
  for (float& weight : ranker.dense().weights()) weight *= 2.5f;
  return ranker;
}

RankerRequest RandomRequest(const RankerCase& model, Ranker& ranker, int64_t history,
                            int64_t candidates, Random* random) {
  RankerRequest request{.step = {}, .history = history, .candidates = candidates, .inputs = {}};
  StepInputs& in = request.step;
  const int64_t items = candidates + 1 + history / 2;
  in.batch.users = {0};
  in.batch.row_offsets = {0, static_cast<int32_t>(candidates)};
  in.batch.history_offsets = {0, static_cast<int32_t>(history)};
  in.batch.items.resize(static_cast<size_t>(candidates));
  in.batch.clicks.resize(static_cast<size_t>(candidates));
  in.batch.conversions.resize(static_cast<size_t>(candidates));
  in.batch.global_requests = 1;
  in.batch.global_rows = candidates;
  in.item.keys = Keys(items);
  in.candidates = candidates;
  in.user_of_row.assign(static_cast<size_t>(candidates), 0);
  in.item_of_row = Numbers(candidates, candidates, random);
  in.item_of_position = Numbers(history, items, random);
  const int64_t contents = Below(random, 8) == 0 ? 0 : 1 + Below(random, items);
  FillRows(model, contents, random, &in);
  const auto known = static_cast<int64_t>(in.content_keys.size());
  in.content_of_item = Numbers(items, known + 1, random);
  const int64_t featured = model.config.model.behaviour_features ? items : candidates;
  in.features_of_item = Numbers(model.sizes.features * featured, 5, random);
  in.context_of_row = Numbers(model.sizes.context * candidates, 5, random);
  in.numerics = Normals(candidates * model.sizes.numerics, 1, random);

  const Arm arm = ArmOf(model.config.model.arm);
  Matrix aligned;
  if (arm.content) {
    const at::Tensor rows = ranker.Aligned(in).contiguous();
    aligned.assign(rows.data_ptr<float>(), rows.data_ptr<float>() + rows.numel());
  }
  std::map<std::string, Matrix>& inputs = request.inputs;
  inputs["user"] = in.user.rows;
  inputs["numerics"] = in.numerics;
  FillItems(model, in, aligned, in.item_of_row, "", "item", &inputs);
  FillItems(model, in, aligned, in.item_of_position, "history_", "item", &inputs);
  for (int64_t n = 0; n < candidates; ++n) {
    for (int64_t f = 0; f < model.sizes.context; ++f) {
      AppendRow(in.feature.rows, model.config.model.feature_dim,
                in.context_of_row[static_cast<size_t>(f * candidates + n)], &inputs["context"]);
    }
  }
  return request;
}

GraphRequest InputsOf(const GraphRunner& runner, const RankerRequest& request) {
  GraphRequest graph{.history = request.history, .candidates = request.candidates, .inputs = {}};
  for (const GraphValue& input : runner.inputs()) {
    const auto found = request.inputs.find(input.name);
    // An empty history has no rows.
    graph.inputs.push_back(found == request.inputs.end() ? std::span<const float>()
                                                         : std::span<const float>(found->second));
  }
  return graph;
}

}  // namespace savior
