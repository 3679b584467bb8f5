// `savior train` as many processes on this machine, started by a real mpirun.

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "common/tensor_file.h"
#include "common/transport.h"
#include "launcher/commit.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/launcher/growing_world.h"
#include "tests/launcher/mpirun_job.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit{240};

// One data set, and one run on it in this process.
class Mpirun : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    RunToTheEnd(Alone());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Named(const std::string& name) {
    Config config = SmallRun(folder_->path(), name);
    config.ps.ram_budget_mb = 64;
    config.cluster.lease_s = 20;
    return config;
  }
  static Config Alone() { return Named("alone"); }

  static Ended Run(const std::vector<std::string>& command) {
    return ChildProcess(command, folder_->path()).Wait(kLimit);
  }
  static void Finishes(int ranks, const Config& config, const std::vector<std::string>& more = {}) {
    const Ended ended = Run(MpirunJob(ranks, config, more));
    ASSERT_EQ(ended.code, 0) << config.run.dir << ": " << ended.err;
  }

  // Until the first step is done.
  static bool WaitForSteps(const Config& config) {
    const fs::path metrics = fs::path(config.run.dir) / "metrics.jsonl";
    const auto limit = std::chrono::steady_clock::now() + kLimit;
    while (std::chrono::steady_clock::now() < limit) {
      if (fs::exists(metrics) && fs::file_size(metrics) > 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  static TempFolder* folder_;
};
TempFolder* Mpirun::folder_ = nullptr;

// Whatever the number of shards, and whether rows come over the network or not.
TEST_F(Mpirun, OneWorkerGetsTheBitsOfTheRunInOneProcess) {
  for (const int shards : {1, 2, 3, 5}) {
    SCOPED_TRACE(shards);
    Config config = Named("one-worker-" + std::to_string(shards));
    config.ps.shards = shards;
    Finishes(2, config);
    ExpectSame(Alone(), config);
  }
}

TEST_F(Mpirun, AWorldOfOneIsServerAndWorker) {
  Finishes(1, Named("world-1"));
  ExpectSame(Alone(), Named("world-1"));
}

TEST_F(Mpirun, TwoWorkersGetTheSameBitsWithAnyNumberOfShards) {
  Config first = Named("two-workers-1");
  Finishes(3, first);
  for (const int shards : {1, 2, 3, 5}) {
    SCOPED_TRACE(shards);
    Config config = Named("two-workers-again-" + std::to_string(shards));
    config.ps.shards = shards;
    config.cluster.workers = 2;  // the fourth process is a second server
    Finishes(shards == 5 ? 4 : 3, config);
    ExpectSame(first, config);
  }
}

double RelativeDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    squares += static_cast<double>(a[i]) * a[i];
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
  }
  return std::sqrt(difference / squares);
}

// Sums in another order, and nothing else: 200 steps later the weights still agree.
TEST_F(Mpirun, WorkersTogetherDoWhatOneDoes) {
  std::vector<float> one;
  for (const int workers : {1, 2, 3, 6}) {
    SCOPED_TRACE(workers);
    Config config = Named("together-" + std::to_string(workers));
    config.train.epochs = 3;
    config.train.max_steps = 200;
    // Optimizers without a root of tiny sums: theirs would make rounding errors large.
    config.train.table_optimizer = "sgd";
    Finishes(workers + 1, config);
    const auto commit = NewestCommit(fs::path(config.run.dir) / "commits");
    ASSERT_TRUE(commit.ok()) << commit.status();
    ASSERT_EQ(commit->manifest.step, 200);
    const auto dense = ReadTensorFile(commit->folder / "dense.safetensors");
    ASSERT_TRUE(dense.ok());
    std::vector<float> weights;
    for (const auto& [name, tensor] : dense->tensors) {
      if (!name.starts_with("adam.")) {
        weights.insert(weights.end(), tensor.data.begin(), tensor.data.end());
      }
    }
    if (one.empty()) one = weights;
    ASSERT_EQ(one.size(), weights.size());
    EXPECT_LE(RelativeDifference(one, weights), 1e-4);
  }
}

TEST_F(Mpirun, AWorkerWithoutDataChangesNothing) {
  Config config = Named("few-requests");
  config.train.requests_per_batch = 1;
  config.train.max_steps = 30;
  Config other = Named("few-requests-3");
  other.train.requests_per_batch = 1;
  other.train.max_steps = 30;
  RunToTheEnd(config);
  Finishes(4, other);
  // One request a step: one worker has it all, so even the bits are the same.
  ExpectSame(config, other);
}

TEST_F(Mpirun, StaleRunsKeepToTheirBoundAndSayHowStaleTheyWere) {
  for (const int staleness : {1, 3, -1}) {
    SCOPED_TRACE(staleness);
    Config config = Named("stale-" + std::to_string(staleness));
    config.cluster.staleness = staleness;
    config.train.metrics_every_s = 0.05;
    Finishes(3, config);
    std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
    std::string line, last;
    while (std::getline(metrics, line)) last = line;
    const auto json = nlohmann::json::parse(last);
    if (staleness > 0) {
      EXPECT_LE(json.at("max_staleness").get<int>(), staleness);
    }
    EXPECT_GT(json.at("max_staleness").get<int>(), 0);
  }
}

// Lets a process run a fifth of the time, until destroyed.
class SlowedDown {
 public:
  explicit SlowedDown(pid_t pid)
      : thread_([this, pid] {
          while (!done_) {
            ::kill(pid, SIGSTOP);
            std::this_thread::sleep_for(std::chrono::milliseconds(40));
            ::kill(pid, SIGCONT);
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
        }) {}
  ~SlowedDown() {
    done_ = true;
    thread_.join();
  }
  SlowedDown(const SlowedDown&) = delete;
  SlowedDown& operator=(const SlowedDown&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// Row slow_worker of docs/reliability.md, in a real run.
TEST_F(Mpirun, AWorkerFiveTimesSlowerThanTheOthersLeavesTheBoundOfStalenessAlone) {
  for (const int staleness : {0, 1, 4}) {
    SCOPED_TRACE(staleness);
    Config config = Named("slowed-" + std::to_string(staleness));
    config.cluster.staleness = staleness;
    config.train.metrics_every_s = 1e-6;
    ChildProcess job(MpirunJob(4, config), folder_->path());
    ASSERT_TRUE(WaitForSteps(config));
    const std::vector<pid_t> ranks = ProcessesWith(config.run.dir + ".toml");
    ASSERT_EQ(ranks.size(), 5u) << "mpirun, a server and three workers";
    Ended ended;
    {
      const SlowedDown slowed(ranks.back());
      ended = job.Wait(kLimit);
    }
    ASSERT_EQ(ended.code, 0) << ended.err;
    std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
    std::string line;
    int64_t step = 0;
    int staleness_seen = 0;
    while (std::getline(metrics, line)) {
      const auto json = nlohmann::json::parse(line);
      step = json.at("step");
      staleness_seen = json.at("max_staleness");
      EXPECT_LE(staleness_seen, staleness) << "step " << step;
    }
    EXPECT_GT(step, 60);
    PrintFigure("slow_worker",
                absl::StrCat("a worker with a fifth of its time, staleness ", staleness,
                             ": at most ", staleness_seen, " seen in ", step, " steps"));
  }
}

TEST_F(Mpirun, TheResultSaysWhatEveryProcessUsed) {
  Config config = Named("costs");
  config.train.metrics_every_s = 0.05;
  Finishes(3, config);
  std::ifstream file(fs::path(config.run.dir) / "result.json");
  const auto train = nlohmann::json::parse(file).at("train");
  double cpu_s = train.at("processes").at("servers_cpu_s");
  EXPECT_GT(cpu_s, 0);
  ASSERT_EQ(train.at("processes").at("workers").size(), 2u);
  for (const auto& worker : train.at("processes").at("workers")) {
    cpu_s += worker.at("cpu_s").get<double>();
    EXPECT_GT(worker.at("step_seconds").at("steps"), 0);
    EXPECT_GT(worker.at("step_seconds").at("compute").at("mean"), 0.0);
  }
  EXPECT_NEAR(train.at("cpu_s"), cpu_s, 1e-9);
  std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(metrics, line));
  EXPECT_GT(nlohmann::json::parse(line).at("step_seconds").at("step").at("p99"), 0.0);
  // A process alone has no servers to pay for.
  std::ifstream alone(fs::path(Alone().run.dir) / "result.json");
  EXPECT_EQ(nlohmann::json::parse(alone).at("train").at("processes").at("servers_cpu_s"), 0.0);
}

TEST_F(Mpirun, EncryptedInsecureAndHalfPrecisionRunsTrain) {
  Config curve = Named("curve");
  curve.security.curve = "always";
  Finishes(2, curve);
  ExpectSame(Alone(), curve);
  Config half = Named("half");
  half.cluster.wire_dtype = half.cluster.allreduce_dtype = "bfloat16";
  half.security.insecure = true;  // said at every start, on one machine, too
  const Ended ended = Run(MpirunJob(3, half));
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.err, HasSubstr("INSECURE: security.insecure = true"));
}

// The signal that mpirun passes on: all stop after the same step, and the run goes on as if it had
// never been stopped, with other shards and their files elsewhere, too.
TEST_F(Mpirun, StopsInOrderAndGoesOn) {
  Config undisturbed = Named("undisturbed");
  undisturbed.train.epochs = 6;
  Finishes(3, undisturbed);
  Config config = Named("stopped");
  config.train.epochs = 6;
  config.train.metrics_every_s = 0.01;
  ChildProcess job(MpirunJob(3, config), folder_->path());
  ASSERT_TRUE(WaitForSteps(config));
  job.Signal(SIGUSR1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  job.Signal(SIGUSR1);  // a second one changes nothing
  const Ended stopped = job.Wait(kLimit);
  ASSERT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("stopped after step"));
  EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "result.json"));
  const TempFolder memory("/dev/shm");
  config.ps.shards = 3;
  config.ps.live_dir = memory.path().string();
  Finishes(3, config, {"--resume"});
  EXPECT_TRUE(fs::exists(memory / "server-0" / "shard-2"));
  ExpectSame(undisturbed, config);
}

TEST_F(Mpirun, GoesOnOverALogThatHasGrown) {
  const fs::path folder = folder_->path() / "growing";
  const testing::RawData world = WholeWorld();
  const auto stage = [&](const std::string& name, int until) {
    Config config = WorldRun(folder, name, until);
    config.ps.ram_budget_mb = 64;
    config.cluster.lease_s = 20;
    config.ps.shards = 2;
    return config;
  };
  WriteWorld(KnownBy(world, 5), folder);
  RunToTheEnd(stage("alone", 4));
  Finishes(2, stage("one-worker", 4));
  Finishes(3, stage("two-workers", 4));
  WriteWorld(KnownBy(world, 7), folder);
  RunToTheEnd(stage("alone", 6), /*resume=*/true);
  Finishes(2, stage("one-worker", 6), {"--resume"});
  Finishes(3, stage("two-workers", 6), {"--resume"});
  ExpectSame(stage("alone", 6), stage("one-worker", 6));
  const Learned one = LearnedBy(stage("alone", 6)), two = LearnedBy(stage("two-workers", 6));
  EXPECT_EQ(one.step, two.step);
  EXPECT_TRUE(one.tables.at("content") == two.tables.at("content"));
  EXPECT_EQ(one.tables.at("item").size(), two.tables.at("item").size());

  // What is refused is said by the lead, and ends all.
  testing::RawData other = KnownBy(world, 8);
  other.impressions[0].hour += 1;
  WriteWorld(other, folder);
  const Ended ended = Run(MpirunJob(3, stage("two-workers", 7), {"--resume"}));
  EXPECT_NE(ended.code, 0);
  EXPECT_THAT(ended.err, HasSubstr("2023-11-15: 'num_hour' has other values"));
}

TEST_F(Mpirun, AKilledProcessEndsAll) {
  Config config = Named("killed");
  config.train.epochs = 1000;
  config.train.metrics_every_s = 0.01;
  ChildProcess job(MpirunJob(3, config), folder_->path());
  ASSERT_TRUE(WaitForSteps(config));
  const std::vector<pid_t> ranks = ProcessesWith(config.run.dir + ".toml");
  ASSERT_EQ(ranks.size(), 4u) << "mpirun and three ranks";
  ::kill(ranks.back(), SIGKILL);
  const Ended ended = job.Wait(std::chrono::seconds(20));
  EXPECT_GT(ended.code, 0);
  EXPECT_TRUE(ProcessesWith(config.run.dir + ".toml").empty());
}

// Row config_mismatch of docs/reliability.md: a dimension, the seed, the map of keys to shards.
TEST_F(Mpirun, RanksThatDifferAreNamedWithTheKey) {
  const std::pair<const char*, const char*> differences[] = {
      {"model.id_dim=16", "model.id_dim (8 | 16)"},
      {"seed=2", "seed (1 | 2)"},
      {"ps.shards=5", "ps.shards (1 | 5)"}};
  for (const auto& [override, named] : differences) {
    SCOPED_TRACE(override);
    const Config config = Named("mismatch");
    std::vector<std::string> command = MpirunCommand();
    AddRanks(2, {WriteConfig(config)}, &command);
    command.emplace_back(":");
    AddRanks(1, {WriteConfig(config), override}, &command);
    const Ended ended = Run(command);
    EXPECT_GT(ended.code, 0);
    EXPECT_THAT(ended.err, AllOf(HasSubstr("rank 0 on"), HasSubstr("rank 2 on"), HasSubstr(named)));
    EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "commits"));
    EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "metrics.jsonl"));
  }
  PrintFigure("config_mismatch",
              "model.id_dim, seed, ps.shards of one rank of three: refused "
              "before step 1, both ranks and the key named");
}

TEST_F(Mpirun, RolesByCommandLine) {
  const Config config = Named("mpmd");
  std::vector<std::string> command = MpirunCommand();
  AddRanks(1, {WriteConfig(config), "--role", "worker"}, &command);
  command.emplace_back(":");
  AddRanks(1, {WriteConfig(config), "--role", "server"}, &command);
  const Ended ended = Run(command);
  ASSERT_EQ(ended.code, 0) << ended.err;
  ExpectSame(Alone(), config);
}

TEST_F(Mpirun, StartsThatCannotWorkSayWhy) {
  const auto refused = [](const Config& config, const std::string& why) {
    const Ended ended = Run(MpirunJob(3, config));
    EXPECT_GT(ended.code, 0) << config.run.dir;
    EXPECT_THAT(ended.err, HasSubstr(why)) << config.run.dir;
  };
  Config config = Named("no-interface");
  config.cluster.interface = "eth99";
  refused(config, "cluster.interface = \"eth99\"");

  Context context;
  const auto taken = RouterSocket::Bind(&context, "tcp://127.0.0.1:0", {});
  ASSERT_TRUE(taken.ok());
  const std::string endpoint = (*taken)->endpoint();
  config = Named("port-taken");
  config.cluster.port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
  refused(config, "in use");
  config = Named("shard-port-taken");
  config.cluster.port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1)) - 1;
  refused(config, "shard 0");

  config = Named("too-many");
  config.cluster.workers = 5;
  refused(config, "the run has 3 processes");
  config = Named("no-data");
  config.data.raw = (folder_->path() / "nowhere").string();
  refused(config, "nowhere");
  // A run that is there, without --resume.
  refused(Alone(), "--resume");
}

TEST_F(Mpirun, LargerWorldsTrain) {
  Config config = Named("world-7");
  config.train.max_steps = 20;
  config.cluster.servers = 2;
  Finishes(7, config);
}

}  // namespace
}  // namespace savior
