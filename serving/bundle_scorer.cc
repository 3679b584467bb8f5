#include "serving/bundle_scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "serving/bundle_model.h"
#include "serving/graph_runner.h"
#include "serving/ranker_graph.h"
#include "serving/request_facts.h"
#include "worker/numerics.h"

namespace savior {
namespace {

ModelCard CardOf(const Bundle& bundle, const BundleModel& model) {
  const auto names = [](const std::vector<CategoricalFeature>& features) {
    std::vector<std::string> all;
    all.reserve(features.size());
    for (const CategoricalFeature& feature : features) all.push_back(feature.name);
    return all;
  };
  const LogSchema& schema = model.schema();
  ModelCard card{.version = bundle.version(),
                 .step = bundle.manifest.step,
                 .codebook_version = bundle.manifest.codebook_version,
                 .item_features = names(schema.item_features),
                 .item_numerics = schema.item_numerics,
                 .context_features = names(schema.context_features),
                 .context_numerics = schema.context_numerics,
                 .modalities = {},
                 .items = static_cast<int64_t>(model.items())};
  for (const Modality& m : schema.modalities) card.modalities.push_back({m.name, m.dim});
  return card;
}

// Which of the graph's inputs is what, in the order of kNames; -1: the graph does not take it.
enum Slot : uint8_t {
  kUser,
  kHistoryItem,
  kHistoryAligned,
  kHistoryContent,
  kHistoryFeatures,
  kItem,
  kAligned,
  kContent,
  kFeatures,
  kContext,
  kNumerics,
  kCodes,
  kSlots
};
constexpr std::array<std::string_view, kSlots> kNames = {
    "user",    "history_item", "history_aligned", "history_content", "history_features", "item",
    "aligned", "content",      "features",        "context",         "numerics",         "codes"};

std::array<int, kSlots> SlotsOf(const std::vector<GraphValue>& inputs) {
  std::array<int, kSlots> slots;
  for (size_t s = 0; s < kSlots; ++s) {
    const auto found = std::ranges::find(inputs, kNames[s], &GraphValue::name);
    slots[s] = found == inputs.end() ? -1 : static_cast<int>(found - inputs.begin());
  }
  return slots;
}

// The matrices that a graph takes, for one request. Each has as many rows as the graph says.
class Inputs {
 public:
  Inputs(const std::vector<GraphValue>& wanted, const std::array<int, kSlots>& slots,
         int64_t history, int64_t candidates)
      : wanted_(wanted), slots_(slots), matrices_(wanted.size()) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      const int64_t rows = wanted[i].rows == Rows::kOne       ? 1
                           : wanted[i].rows == Rows::kHistory ? history
                                                              : candidates;
      matrices_[i].resize(static_cast<size_t>(rows * wanted[i].width));
    }
  }

  // Row `row` of an input; empty if the graph does not take it.
  std::span<float> Row(Slot slot, size_t row) {
    if (slots_[slot] < 0) return {};
    const auto i = static_cast<size_t>(slots_[slot]);
    const auto width = static_cast<size_t>(wanted_[i].width);
    return std::span(matrices_[i]).subspan(row * width, width);
  }

  GraphRequest Request(int64_t history, int64_t candidates) const {
    GraphRequest request{.history = history, .candidates = candidates};
    request.inputs.assign(matrices_.begin(), matrices_.end());
    return request;
  }

 private:
  const std::vector<GraphValue>& wanted_;
  const std::array<int, kSlots>& slots_;
  std::vector<std::vector<float>> matrices_;
};

class BundleScorer final : public Scorer {
 public:
  BundleScorer(ModelCard card, std::unique_ptr<BundleModel> model, const Graph& graph)
      : card_(std::move(card)),
        model_(std::move(model)),
        runner_(graph),
        slots_(SlotsOf(runner_.inputs())) {}

  const ModelCard& card() const override { return card_; }

  absl::StatusOr<RankScores> Rank(const RankRequest& request) const override {
    const RequestFacts facts(*model_, request);
    SAVIOR_RETURN_IF_ERROR(facts.Check());
    const std::vector<PastBehaviour> history = facts.History();
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<CandidateInput> candidates, facts.Candidates());
    const auto t = static_cast<int64_t>(history.size());
    const auto c = static_cast<int64_t>(candidates.size());
    Inputs inputs(runner_.inputs(), slots_, t, c);
    if (const auto user = inputs.Row(kUser, 0); !user.empty()) {
      model_->UserRow(request.user, user);
    }
    for (size_t p = 0; p < history.size(); ++p) FillHistory(history[p], p, &inputs);
    for (size_t n = 0; n < candidates.size(); ++n) {
      FillCandidate(candidates[n], n, &inputs);
      FillNumerics(request, candidates[n], history, n, &inputs);
    }
    SAVIOR_ASSIGN_OR_RETURN(auto scores, runner_.Run(inputs.Request(t, c)));
    RankScores answer{.p_ctr = std::move(scores[0]),
                      .p_cvr = std::move(scores[1]),
                      .p_ctcvr = std::move(scores[2])};
    for (const float p : answer.p_ctr) {
      if (!std::isfinite(p)) return absl::InternalError("a score is not finite");
    }
    return answer;
  }

 private:
  void FillFeatures(std::span<const int32_t> codes, size_t first, std::span<float> row) const {
    const auto dim = static_cast<size_t>(model_->config().model.feature_dim);
    for (size_t f = 0; f < codes.size() && !row.empty(); ++f) {
      std::ranges::copy(model_->FeatureRow(first + f, codes[f]), row.begin() + f * dim);
    }
  }

  // z and z~ of a content, to those of the two that the graph takes.
  void FillContent(std::optional<uint64_t> key, const ColdContent* cold, std::span<float> z,
                   std::span<float> aligned) const {
    if (cold != nullptr) {
      if (!z.empty()) std::ranges::copy(cold->z, z.begin());
      if (!aligned.empty()) std::ranges::copy(cold->aligned, aligned.begin());
    } else if (key) {
      model_->Content(*key, z, aligned);
    }
  }

  void FillHistory(const PastBehaviour& past, size_t row, Inputs* inputs) const {
    model_->ItemRow(past.item, inputs->Row(kHistoryItem, row));
    const std::optional<CatalogueItem> item = model_->FindItem(past.item);
    FillContent(item ? item->content : std::nullopt, nullptr, inputs->Row(kHistoryContent, row),
                inputs->Row(kHistoryAligned, row));
    const std::span<float> features = inputs->Row(kHistoryFeatures, row);
    if (features.empty()) return;
    const std::vector<int32_t> unknown(model_->schema().item_features.size());
    FillFeatures(item ? item->features : std::span<const int32_t>(unknown), 0, features);
  }

  void FillCandidate(const CandidateInput& candidate, size_t row, Inputs* inputs) const {
    model_->ItemRow(candidate.item, inputs->Row(kItem, row));
    const ColdContent* const cold = candidate.cold ? &*candidate.cold : nullptr;
    FillContent(candidate.content, cold, inputs->Row(kContent, row), inputs->Row(kAligned, row));
    FillFeatures(candidate.features, 0, inputs->Row(kFeatures, row));
    FillFeatures(candidate.context, model_->schema().item_features.size(),
                 inputs->Row(kContext, row));
    if (const std::span<float> codes = inputs->Row(kCodes, row); !codes.empty()) {
      if (cold != nullptr) {
        model_->CodeRows(cold->codes, codes);
      } else if (candidate.content) {
        if (const auto own = model_->Codes(*candidate.content)) model_->CodeRows(*own, codes);
      }
    }
  }

  static void FillNumerics(const RankRequest& request, const CandidateInput& candidate,
                           const std::vector<PastBehaviour>& history, size_t row, Inputs* inputs) {
    const std::span<float> numerics = inputs->Row(kNumerics, row);
    WriteOwnNumerics({.now = request.timestamp,
                      .listed_at = candidate.listed_at,
                      .prior_count = candidate.prior_count,
                      .history = static_cast<int64_t>(history.size()),
                      .last_history = history.empty() ? 0 : history.back().timestamp},
                     numerics.data());
    std::ranges::transform(candidate.numerics, numerics.begin() + kOwnNumerics,
                           [](float x) { return Squash(x); });
  }

  const ModelCard card_;
  const std::unique_ptr<BundleModel> model_;
  const GraphRunner runner_;
  const std::array<int, kSlots> slots_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Scorer>> ScorerOf(const BundleChain& chain) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<BundleModel> model,
                          BundleModel::Load(chain, std::filesystem::temp_directory_path()));
  absl::StatusOr<Graph> graph =
      RankerGraph(model->config(), SizesOf(model->schema()), model->ranker());
  if (!graph.ok()) {
    return Annotate(graph.status(), (chain.newest().folder / kBundleRanker).string());
  }
  ModelCard card = CardOf(chain.newest(), *model);
  return std::make_shared<BundleScorer>(std::move(card), std::move(model), *graph);
}

absl::StatusOr<std::shared_ptr<const Scorer>> LoadScorer(const std::filesystem::path& dir,
                                                         const std::string& version, bool digests,
                                                         DigestCache* known) {
  SAVIOR_ASSIGN_OR_RETURN(const BundleChain chain, OpenChain(dir, version, digests, known));
  return ScorerOf(chain);
}

}  // namespace savior
