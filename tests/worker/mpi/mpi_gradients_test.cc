// The ranker, its buckets and MPI together: what every worker has after a step is the sum of all
// slices' gradients, bit for bit, though summing begins while the backward pass goes on.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/worker/mpi/job.h"
#include "tests/worker/trainer/clocked_store.h"
#include "tests/worker/trainer/small_world.h"
#include "worker/gradient_buckets.h"
#include "worker/model/ranker.h"
#include "worker/mpi_allreduce.h"

namespace savior {
namespace {

constexpr size_t kSmallBuckets = 512;  // bytes

StepInputs SliceOf(const TrainingLog& log, const Config& config, StepAssembler& assembler,
                   EmbeddingStore& store, uint32_t worker, int64_t index) {
  BatchOptions options;
  options.period = kWholeLog;
  options.requests_per_batch = 5;  // of 7 workers some have nothing
  options.worker = worker;
  options.workers = testing::WorldGroup().size();
  auto reader = BatchReader::Create(&log, options).value();
  StepInputs in = assembler.Assemble(reader->Read(index).value(), store, Deadline::max()).value();
  EXPECT_TRUE(FetchRows(in, store, Deadline::max()).ok());
  return in;
}

TEST(MpiGradients, AreSummedBitForBitDuringTheBackwardPass) {
  const MpiGroup& group = testing::WorldGroup();
  const TempFolder folder;
  const auto log = MakeSmallLog(folder);
  ASSERT_NE(log, nullptr);
  const Config config = SmallModel();
  ClockedStore store(config, 1);
  StepAssembler assembler(log.get(), config);
  const Ranker::Sizes sizes = {assembler.num_features(), assembler.num_context(),
                               assembler.num_numerics()};
  Ranker ranker(config, sizes), reference(config, sizes);
  const auto allreduce = MpiAllreduce::Create(&testing::WorldGroup(), {}, testing::Soon()).value();
  GradientBuckets buckets(ranker.dense().parameters(), ranker.dense().gradients(), allreduce.get(),
                          kSmallBuckets);
  ASSERT_GT(buckets.buckets(), 3u);
  size_t ready = 0;
  ranker.OnGradient([&](size_t parameter) {
    ++ready;
    buckets.Ready(parameter);
  });
  for (int64_t step = 0; step < 10; ++step) {
    RowGradients grads;
    const StepInputs in = SliceOf(*log, config, assembler, store.port(0), group.rank(), step);
    ready = 0;
    ranker.Learn(in, step, &grads);
    EXPECT_EQ(ready, in.batch.rows() > 0 ? ranker.dense().parameters().size() : 0);
    buckets.StartRest();
    ASSERT_TRUE(allreduce->Finish(testing::Soon()).ok());
    std::vector<float> sum;
    for (uint32_t w = 0; w < group.size(); ++w) {
      reference.Learn(SliceOf(*log, config, assembler, store.port(0), w, step), step, &grads);
      const std::vector<float>& theirs = reference.dense().gradients();
      if (w == 0) {
        sum = theirs;
      } else {
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += theirs[i];
      }
    }
    const std::vector<float>& got = ranker.dense().gradients();
    ASSERT_EQ(std::memcmp(got.data(), sum.data(), sum.size() * sizeof(float)), 0) << step;
  }
}

}  // namespace
}  // namespace savior
