// Runs killed by SIGKILL at steps that nobody chose, while commits are being written, and started
// again: every loss, the AUC and every table have the bits of a run that was left alone.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <string>

#include "common/random.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = 10;
constexpr int64_t kSteps = 24;

Config Named(const TempFolder& folder, const std::string& name) {
  Config config = SmallRun(folder.path(), name);
  config.train.max_steps = kSteps;
  config.commit.every_steps = 3;
  config.ps.shards = 2;
  config.encoder.steps = config.codebook.finetune_steps = 2;
  return config;
}

// Step -> losses in hex. A step that was done twice says the same twice.
std::map<int64_t, std::string> LossesIn(const fs::path& path) {
  std::map<int64_t, std::string> losses;
  std::ifstream file(path);
  int64_t step = 0;
  for (std::string ctr, ctcvr; file >> step >> ctr >> ctcvr;) {
    const std::string both = ctr + " " + ctcvr;
    EXPECT_EQ(losses.emplace(step, both).first->second, both) << "step " << step << " done again";
  }
  return losses;
}

// Digests of all rows, by table, and of the dense file.
std::map<std::string, std::string> DigestsOf(const Config& config) {
  std::map<std::string, std::string> digests;
  const Learned learned = LearnedBy(config);
  digests["dense"] = DigestBytes(learned.dense);
  for (const auto& [name, rows] : learned.tables) {
    std::string bytes;
    const auto add = [&bytes](const auto* data, size_t n) {
      bytes.append(reinterpret_cast<const char*>(data), n * sizeof(*data));
    };
    for (const auto& [key, row] : rows) {
      add(&key, 1);
      add(&row.updates, 1);
      add(&row.last_step, 1);
      add(row.weights.data(), row.weights.size());
      add(row.state.data(), row.state.size());
    }
    digests[name] = DigestBytes(bytes);
  }
  return digests;
}

int RunTold(const Config& config, int64_t last) {
  const std::string file = config.run.dir + ".toml";
  std::ofstream(file) << ToToml(config);
  return ChildProcess({TOLD_RUN, file, config.run.dir + ".losses", std::to_string(last)},
                      fs::path(config.run.dir).parent_path())
      .Wait()
      .code;
}

TEST(BitIdenticalResume, OfRunsKilledAtTenSteps) {
  const TempFolder folder("/dev/shm");
  MakeRaw(folder.path());
  const Config undisturbed = Named(folder, "undisturbed");
  ASSERT_EQ(RunTold(undisturbed, -1), 0);
  const auto losses = LossesIn(undisturbed.run.dir + ".losses");
  ASSERT_EQ(losses.size(), static_cast<size_t>(kSteps));
  const auto digests = DigestsOf(undisturbed);
  EXPECT_GE(digests.size(), 6u);
  Random random(TestSeed());
  std::set<int64_t> steps;
  while (steps.size() < kKills) {
    steps.insert(static_cast<int64_t>(random.Below(static_cast<uint64_t>(kSteps))));
  }
  int same = 0;
  for (const int64_t step : steps) {
    SCOPED_TRACE(fmt::format("killed after step {}", step + 1));
    const Config config = Named(folder, fmt::format("killed-{}", step));
    ASSERT_EQ(RunTold(config, step), -SIGKILL);
    ASSERT_EQ(RunTold(config, -1), 0);
    const auto losses_now = LossesIn(config.run.dir + ".losses");
    EXPECT_EQ(losses_now, losses);
    EXPECT_EQ(ResultOf(config), ResultOf(undisturbed));  // AUC and the like, all digits
    const auto digests_now = DigestsOf(config);
    EXPECT_EQ(digests_now, digests);
    same +=
        losses_now == losses && digests_now == digests && ResultOf(config) == ResultOf(undisturbed);
    fs::remove_all(config.run.dir);
  }
  PrintFigure("bit_identical_resume",
              fmt::format("{} of {} runs have the losses, scores and {} digests of one left alone",
                          same, kKills, digests.size()));
}

}  // namespace
}  // namespace savior
