// What a worker does with what the others say, with the others played by the test.

#include "launcher/training_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Worker 0 of 2; worker 1 says the same, but at call number `other_at` something else.
class Echo final : public Group {
 public:
  explicit Echo(int other_at) : other_at_(other_at) {}
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 2; }
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine, Deadline) override {
    const std::string text(mine);
    return std::vector<std::string>{text, calls_++ == other_at_ ? text + "-other" : text};
  }
  int calls() const { return calls_; }

 private:
  const int other_at_;
  int calls_ = 0;
};

class TwoWorkers final : public RunPlace {
 public:
  TwoWorkers(const Config& config, int other_at) : alone_(config), group_(other_at) {}
  Group& workers() override { return group_; }
  Allreduce& allreduce() override { return alone_.allreduce(); }
  std::string device() const override { return alone_.device(); }
  absl::StatusOr<RunStart> Agree(std::optional<RunStart> mine) override { return *mine; }
  absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(const RunStart& start) override {
    return alone_.OpenStore(start);
  }

 private:
  SoloPlace alone_;
  Echo group_;
};

class TrainingRunTest : public testing::Test {
 protected:
  TrainingRunTest() { MakeRaw(folder_.path()); }

  absl::Status Run(const std::string& name, int other_at) {
    Config config = SmallRun(folder_.path(), name);
    config.cluster.digest_every_steps = 10;
    config.train.max_steps = 40;
    TwoWorkers place(config, other_at);
    std::ostringstream out;
    TrainingRun run(config, {}, &place, out);
    return run.Run().status();
  }

  const TempFolder folder_;
};

// Calls 0 and 1 are the start's, then there is one every 10 steps.
TEST_F(TrainingRunTest, WorkersThatDifferAreNamedWithWhatAndWhen) {
  const absl::Status data = Run("data", 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(data)) << data;
  EXPECT_THAT(data.message(), AllOf(HasSubstr("workers 0 and 1"), HasSubstr("training data")));
  EXPECT_THAT(Run("start", 1).message(),
              AllOf(HasSubstr("workers 0 and 1"), HasSubstr("initial dense weights")));
  EXPECT_THAT(Run("second", 3).message(),
              AllOf(HasSubstr("workers 0 and 1"), HasSubstr("dense weights after step 20")));
}

// Worker 1 of 2, whose lead finds the disk full at every commit and says so.
class FullLead final : public Group {
 public:
  static constexpr const char* kWhy = "writing commit 7: No space left on device";

  uint32_t rank() const override { return 1; }
  uint32_t size() const override { return 2; }
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine, Deadline) override {
    const std::string text(mine);
    // Only what this worker says of a commit is empty.
    return std::vector<std::string>{text.empty() ? kWhy : text, text};
  }
};

class OtherThanTheLead final : public RunPlace {
 public:
  explicit OtherThanTheLead(const Config& config) : alone_(config) {}
  Group& workers() override { return group_; }
  Allreduce& allreduce() override { return alone_.allreduce(); }
  std::string device() const override { return alone_.device(); }
  absl::StatusOr<RunStart> Agree(std::optional<RunStart>) override { return RunStart{}; }
  absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(const RunStart& start) override {
    return alone_.OpenStore(start);
  }

 private:
  SoloPlace alone_;
  FullLead group_;
};

TEST_F(TrainingRunTest, AWorkerGoesOnAndEndsAsItsLeadSaysOfTheDisk) {
  Config config = SmallRun(folder_.path(), "other");
  config.model.arm = "base";  // the lead's content is not there
  config.train.max_steps = 40;
  config.commit.every_steps = 10;
  OtherThanTheLead place(config);
  int64_t steps = 0;
  std::ostringstream out;
  TrainingRun run(config, {.after_step = [&](int64_t, const StepFigures&) { ++steps; }}, &place,
                  out);
  const absl::Status status = run.Run().status();
  EXPECT_EQ(steps, 40);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(), FullLead::kWhy);
}

}  // namespace
}  // namespace savior
