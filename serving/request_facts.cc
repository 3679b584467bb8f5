#include "serving/request_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/model/dense.h"

namespace savior {
namespace {

std::vector<std::string> NamesOf(const std::vector<CategoricalFeature>& features) {
  std::vector<std::string> names;
  names.reserve(features.size());
  for (const CategoricalFeature& feature : features) names.push_back(feature.name);
  return names;
}

std::vector<std::string> NamesOf(const std::vector<Modality>& modalities) {
  std::vector<std::string> names;
  names.reserve(modalities.size());
  for (const Modality& modality : modalities) names.push_back(modality.name);
  return names;
}

// kInvalidArgument unless `name` is one of `names`.
absl::Status CheckName(const std::string& what, const std::string& name,
                       const std::vector<std::string>& names) {
  if (std::ranges::find(names, name) != names.end()) return absl::OkStatus();
  if (names.empty()) {
    return absl::InvalidArgumentError(fmt::format("{} \"{}\": the model has none", what, name));
  }
  return absl::InvalidArgumentError(fmt::format(
      "{} \"{}\": the model has no such; nearest is \"{}\"", what, name, Nearest(name, names)));
}

absl::Status CheckFinite(const std::string& what, double value) {
  if (std::isfinite(static_cast<float>(value))) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {}: must be finite", what, value));
}

}  // namespace

absl::Status RequestFacts::Check() const {
  if (request_.candidates.empty()) {
    return absl::InvalidArgumentError("candidates: none: there must be one at least");
  }
  const LogSchema& schema = model_.schema();
  const std::vector<std::string> context = NamesOf(schema.context_features);
  for (const auto& [name, value] : request_.features) {
    SAVIOR_RETURN_IF_ERROR(CheckName("features", name, context));
  }
  for (const auto& [name, value] : request_.numerics) {
    SAVIOR_RETURN_IF_ERROR(CheckName("numerics", name, schema.context_numerics));
    SAVIOR_RETURN_IF_ERROR(CheckFinite("numerics." + name, value));
  }
  return absl::OkStatus();
}

std::vector<PastBehaviour> RequestFacts::History() const {
  std::vector<PastBehaviour> history;
  std::ranges::copy_if(
      request_.history, std::back_inserter(history),
      [this](const PastBehaviour& past) { return past.timestamp < request_.timestamp; });
  std::ranges::stable_sort(history, {}, &PastBehaviour::timestamp);
  const auto newest = static_cast<size_t>(model_.config().data.max_history);
  if (history.size() > newest) {
    history.erase(history.begin(), history.end() - static_cast<long>(newest));
  }
  return history;
}

absl::StatusOr<std::vector<CandidateInput>> RequestFacts::Candidates() const {
  std::vector<CandidateInput> candidates;
  candidates.reserve(request_.candidates.size());
  for (size_t n = 0; n < request_.candidates.size(); ++n) {
    absl::StatusOr<CandidateInput> input = CandidateOf(n);
    if (!input.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("candidates[{}].{}", n, std::string(input.status().message())));
    }
    candidates.push_back(*std::move(input));
  }
  return candidates;
}

absl::StatusOr<CandidateInput> RequestFacts::CandidateOf(size_t number) const {
  const Candidate& candidate = request_.candidates[number];
  const std::optional<CatalogueItem> item =
      candidate.item ? model_.FindItem(*candidate.item) : std::nullopt;
  CandidateInput input;
  input.item = candidate.item;
  input.features.resize(model_.schema().item_features.size());
  if (item) {
    input.content = item->content;
    input.features.assign(item->features.begin(), item->features.end());
  }
  input.listed_at = candidate.listed_at.value_or(item ? item->listed_at : request_.timestamp);
  input.prior_count = candidate.prior_count.value_or(item ? item->prior_count : 0);
  SAVIOR_RETURN_IF_ERROR(TakeVectors(candidate, &input));
  SAVIOR_RETURN_IF_ERROR(TakeFeatures(candidate, &input));
  SAVIOR_RETURN_IF_ERROR(TakeNumerics(candidate, item ? &*item : nullptr, &input));
  return input;
}

absl::Status RequestFacts::TakeVectors(const Candidate& candidate, CandidateInput* input) const {
  if (candidate.vectors.empty()) return absl::OkStatus();
  const std::vector<Modality>& modalities = model_.schema().modalities;
  for (const auto& [name, vector] : candidate.vectors) {
    SAVIOR_RETURN_IF_ERROR(CheckName("vectors", name, NamesOf(modalities)));
  }
  std::vector<float> x;
  for (const Modality& modality : modalities) {
    const size_t begin = x.size();
    x.resize(begin + static_cast<size_t>(modality.dim));
    const std::vector<float>* const given = candidate.vectors.Find(modality.name);
    if (given == nullptr) continue;
    const std::string what = "vectors." + modality.name;
    if (given->size() != static_cast<size_t>(modality.dim)) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {} values, the model takes {}", what, given->size(), modality.dim));
    }
    for (const float value : *given) SAVIOR_RETURN_IF_ERROR(CheckFinite(what, value));
    const std::span<float> own = std::span(x).subspan(begin);
    std::ranges::copy(*given, own.begin());
    Normalise(own);
  }
  if (model_.has_content()) input->cold = model_.Encode(x);
  return absl::OkStatus();
}

absl::Status RequestFacts::TakeFeatures(const Candidate& candidate, CandidateInput* input) const {
  const LogSchema& schema = model_.schema();
  const size_t own = schema.item_features.size();
  input->context.resize(schema.context_features.size());
  const auto take = [&](size_t number, const std::string& value) {
    const int32_t code = model_.FeatureCode(number, value);
    (number < own ? input->features[number] : input->context[number - own]) = code;
  };
  for (const auto& [name, value] : request_.features) take(*model_.FeatureNumber(name), value);
  for (const auto& [name, value] : candidate.features) {
    const std::optional<size_t> number = model_.FeatureNumber(name);
    if (!number) {
      std::vector<std::string> all = NamesOf(schema.item_features);
      for (const std::string& other : NamesOf(schema.context_features)) all.push_back(other);
      return CheckName("features", name, all);
    }
    take(*number, value);
  }
  return absl::OkStatus();
}

absl::Status RequestFacts::TakeNumerics(const Candidate& candidate, const CatalogueItem* item,
                                        CandidateInput* input) const {
  const LogSchema& schema = model_.schema();
  input->numerics.resize(schema.item_numerics.size() + schema.context_numerics.size());
  if (item != nullptr) std::ranges::copy(item->numerics, input->numerics.begin());
  for (const auto& [name, value] : request_.numerics) {
    input->numerics[*model_.NumericNumber(name)] = static_cast<float>(value);
  }
  for (const auto& [name, value] : candidate.numerics) {
    const std::optional<size_t> number = model_.NumericNumber(name);
    if (!number) {
      std::vector<std::string> all = schema.item_numerics;
      all.insert(all.end(), schema.context_numerics.begin(), schema.context_numerics.end());
      return CheckName("numerics", name, all);
    }
    if (!std::isfinite(static_cast<float>(value))) return CheckFinite("numerics." + name, value);
    input->numerics[*number] = static_cast<float>(value);
  }
  return absl::OkStatus();
}

}  // namespace savior
