#include "worker/eval/prediction_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Batches of as many impressions as `batch_rows` says; items number them from `first`.
PredictionShare Share(int64_t worker, int64_t workers, const std::vector<int64_t>& batch_rows,
                      int32_t first) {
  PredictionShare share;
  share.worker = worker;
  share.workers = workers;
  share.batch_rows = batch_rows;
  for (const int64_t rows : batch_rows) {
    Batch batch;
    batch.users = {7};
    batch.request_ids = {first};
    batch.timestamps = {100 + first};
    batch.row_offsets = {0, static_cast<int32_t>(rows)};
    const auto n = static_cast<size_t>(rows);
    for (int64_t i = 0; i < rows; ++i) batch.items.push_back(first++);
    batch.clicks.assign(n, 1.0f);
    batch.conversions.assign(n, 0.0f);
    batch.weights.assign(n, 2.0f);
    batch.prior_counts.assign(n, 3);
    share.predictions.Append(batch, std::vector<float>(n, 0.25f), std::vector<float>(n, 0.125f));
  }
  return share;
}

TEST(PredictionShare, AreMergedInTheOrderOfTheBatches) {
  // Batches 0, 2, 4 and 1, 3.
  const auto merged = MergeShares(std::vector{Share(0, 2, {2, 1, 1}, 0), Share(1, 2, {1, 3}, 10)});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_THAT(merged->items, ElementsAre(0, 1, 10, 2, 11, 12, 13, 3));
  EXPECT_EQ(merged->p_ctcvr.size(), 8u);
}

TEST(PredictionShare, SurvivesItsBytes) {
  for (const auto& share : {Share(1, 3, {2, 0, 5}, 4), Share(0, 1, {}, 0)}) {
    const std::string bytes = EncodeShare(share);
    const auto decoded = DecodeShare(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->worker, share.worker);
    EXPECT_EQ(decoded->workers, share.workers);
    EXPECT_EQ(decoded->batch_rows, share.batch_rows);
    EXPECT_TRUE(decoded->predictions == share.predictions);
    for (size_t n = 0; n < bytes.size(); ++n) {
      EXPECT_TRUE(absl::IsDataLoss(DecodeShare(std::string_view(bytes).substr(0, n)).status()));
    }
    EXPECT_TRUE(absl::IsDataLoss(DecodeShare(bytes + "x").status()));
  }
}

TEST(PredictionShare, SharesThatDoNotFitAreNamed) {
  const auto error = [](const std::vector<PredictionShare>& shares) {
    const auto merged = MergeShares(shares);
    EXPECT_TRUE(absl::IsDataLoss(merged.status())) << merged.status();
    return std::string(merged.status().message());
  };
  EXPECT_THAT(error({Share(0, 2, {1}, 0), Share(0, 2, {1}, 1)}), HasSubstr("of worker 1"));
  EXPECT_THAT(error({Share(0, 3, {1}, 0), Share(1, 2, {1}, 1)}), HasSubstr("of worker 0"));
  EXPECT_THAT(error({Share(0, 2, {1}, 0), Share(1, 2, {1, 1}, 1)}), HasSubstr("1 batches"));
  PredictionShare wrong = Share(0, 1, {2}, 0);
  wrong.batch_rows[0] = 3;
  EXPECT_THAT(error({wrong}), HasSubstr("2 impressions, its batches have 3"));
}

}  // namespace
}  // namespace savior
