// Scorers without a model, for tests of what stands around them.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "serving/scorer.h"

namespace savior {

// p_ctr of candidate c is 0.5 / (1 + c), p_cvr is `tag`, p_ctcvr their product: a mix of two
// scorers' answers would show. `before` runs first and may wait, fail or throw.
class FakeScorer : public Scorer {
 public:
  using Before = std::function<absl::Status(const RankRequest&)>;
  explicit FakeScorer(int64_t step, float tag = 0.25F, Before before = {})
      : tag_(tag), before_(std::move(before)) {
    card_.step = step;
    card_.version = std::to_string(step);
    card_.version.insert(0, 12 - card_.version.size(), '0');
    card_.item_features = {"feat_brand"};
    card_.item_numerics = {"num_price"};
    card_.context_features = {"ctx_display"};
    card_.modalities = {{"text", 3}};
    card_.items = 100;
  }
  const ModelCard& card() const override { return card_; }

  absl::StatusOr<RankScores> Rank(const RankRequest& request) const override {
    if (before_) SAVIOR_RETURN_IF_ERROR(before_(request));
    RankScores scores;
    for (size_t c = 0; c < request.candidates.size(); ++c) {
      const float p_ctr = 0.5F / static_cast<float>(1 + c);
      scores.p_ctr.push_back(p_ctr);
      scores.p_cvr.push_back(tag_);
      scores.p_ctcvr.push_back(p_ctr * tag_);
    }
    return scores;
  }

 private:
  ModelCard card_;
  const float tag_;
  const Before before_;
};

}  // namespace savior
