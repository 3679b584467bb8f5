// A batch learned whole, and learned in slices whose gradients are added up.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/worker/trainer/clocked_store.h"
#include "tests/worker/trainer/small_world.h"
#include "worker/model/ranker.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

// Of one batch: what all workers' gradients add up to.
struct Gradients {
  RankerLosses losses;
  std::vector<float> dense;
  std::map<std::pair<uint32_t, uint64_t>, std::vector<float>> rows;
  size_t slices_without_rows = 0;
};

class SlicesTest : public testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    log_ = MakeSmallLog(*folder_).release();
  }
  static void TearDownTestSuite() {
    delete log_;
    delete folder_;
  }

  static void AddRows(uint32_t table, const Lookup& lookup, const std::vector<float>& gradient,
                      Gradients* sum) {
    if (gradient.empty()) return;
    const size_t dim = gradient.size() / lookup.keys.size();
    for (size_t i = 0; i < gradient.size(); ++i) {
      auto& row = sum->rows[{table, lookup.keys[i / dim]}];
      row.resize(dim);
      row[i % dim] += gradient[i];
    }
  }

  static void Learn(const Config& config, int64_t workers, int64_t index, Gradients* sum) {
    ClockedStore store(config, 1);
    StepAssembler assembler(log_, config);
    Ranker ranker(config,
                  {assembler.num_features(), assembler.num_context(), assembler.num_numerics()});
    for (int64_t worker = 0; worker < workers; ++worker) {
      const auto reader =
          BatchReader::Create(log_, {.period = kWholeLog,
                                     .requests_per_batch = config.train.requests_per_batch,
                                     .shuffle_window = 50,
                                     .worker = worker,
                                     .workers = workers});
      ASSERT_TRUE(reader.ok()) << reader.status();
      auto batch = (*reader)->Read(index);
      ASSERT_TRUE(batch.ok()) << batch.status();
      auto in = assembler.Assemble(*std::move(batch), store.port(0), Deadline::max());
      ASSERT_TRUE(in.ok()) << in.status();
      ASSERT_TRUE(FetchRows(*in, store.port(0), Deadline::max()).ok());
      // Learned rows, of a run that is under way.
      for (size_t i = 0; i < in->align.rows.size(); ++i) {
        Random random(1, in->align.keys[i / 12] * 12 + i % 12);
        in->align.rows[i] = static_cast<float>(0.3 * random.Normal());
      }
      RowGradients grads;
      const RankerLosses losses = ranker.Learn(*in, 5, &grads);
      sum->losses.ctr += losses.ctr;
      sum->losses.ctcvr += losses.ctcvr;
      const std::vector<float>& dense = ranker.dense().gradients();
      sum->dense.resize(dense.size());
      for (size_t i = 0; i < dense.size(); ++i) sum->dense[i] += dense[i];
      AddRows(kUserTable, in->user, grads.user, sum);
      AddRows(kItemTable, in->item, grads.item, sum);
      AddRows(kFeatureTable, in->feature, grads.feature, sum);
      AddRows(kAlignTable, in->align, grads.align, sum);
      AddRows(kContentVectorTable, in->content_vector, grads.content_vector, sum);
      AddRows(kPrefixTable, in->prefix, grads.prefix, sum);
      if (in->batch.rows() == 0) ++sum->slices_without_rows;
    }
  }

  static TempFolder* folder_;
  static TrainingLog* log_;
};
TempFolder* SlicesTest::folder_ = nullptr;
TrainingLog* SlicesTest::log_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Arms, SlicesTest,
                         testing::Values("base", "saviorenc", "sid", "savior", "free_content"),
                         [](const auto& p) { return std::string(p.param); });

void ExpectNear(const std::vector<float>& sum, const std::vector<float>& whole,
                const std::string& what) {
  ASSERT_EQ(sum.size(), whole.size()) << what;
  float scale = 1e-4f;
  for (const float w : whole) scale = std::max(scale, std::abs(w));
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_NEAR(sum[i], whole[i], 1e-5f * scale) << what << "[" << i << "]";
  }
}

TEST_P(SlicesTest, GradientsOfTheSlicesAddUpToThoseOfTheBatch) {
  Config config = SmallModel(GetParam());
  config.model.behaviour_features = true;
  config.model.prefix_ngrams = true;
  Gradients whole;
  ASSERT_NO_FATAL_FAILURE(Learn(config, 1, 1, &whole));
  ASSERT_GT(whole.losses.ctr, 0.0);
  for (const int64_t workers : {2, 3}) {
    SCOPED_TRACE(workers);
    Gradients sum;
    ASSERT_NO_FATAL_FAILURE(Learn(config, workers, 1, &sum));
    EXPECT_NEAR(sum.losses.ctr, whole.losses.ctr, 1e-5 * whole.losses.ctr);
    EXPECT_NEAR(sum.losses.ctcvr, whole.losses.ctcvr, 1e-5 * whole.losses.ctcvr);
    ExpectNear(sum.dense, whole.dense, "dense");
    ASSERT_EQ(sum.rows.size(), whole.rows.size());
    for (const auto& [key, row] : whole.rows) {
      ExpectNear(sum.rows[key], row,
                 "table " + std::to_string(key.first) + " key " + std::to_string(key.second));
    }
  }
}

TEST_P(SlicesTest, WorkersWithoutRequestsAddNothing) {
  Config config = SmallModel(GetParam());
  config.train.requests_per_batch = 2;
  Gradients whole, sum;
  ASSERT_NO_FATAL_FAILURE(Learn(config, 1, 0, &whole));
  ASSERT_NO_FATAL_FAILURE(Learn(config, 5, 0, &sum));
  EXPECT_EQ(sum.slices_without_rows, 3u);
  EXPECT_NEAR(sum.losses.ctr, whole.losses.ctr, 1e-5 * whole.losses.ctr);
  ExpectNear(sum.dense, whole.dense, "dense");
  EXPECT_EQ(sum.rows.size(), whole.rows.size());
}

}  // namespace
}  // namespace savior
