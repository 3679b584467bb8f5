// `savior serve` while bundles are exported into its folder: no client may notice but by the
// version in the answers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "launcher/bundle_export.h"
#include "serving/bundle_scorer.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::seconds kLimit{120};
constexpr int kClients = 4;
constexpr int64_t kEvery = 10;  // steps between commits
constexpr int64_t kBundles = 6;

fs::path CommitAt(const Config& config, int64_t step) {
  return fs::path(config.run.dir) / "commits" / ("commit-" + BundleName(step));
}

// Until `holds`, or the test has failed.
template <typename F>
void WaitUntil(const std::string& what, const F& holds) {
  const auto limit = std::chrono::steady_clock::now() + kLimit;
  while (!holds()) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit) << what;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// `savior serve` on any free port.
class Server {
 public:
  Server(const fs::path& dir, const fs::path& folder)
      : out_(folder / "child.out"),
        process_({SAVIOR_PROGRAM, "serve", dir.string(), "--port", "0", "--poll-s", "0.1"},
                 folder) {
    WaitUntil("the server's line", [this] { return Port() > 0; });
  }

  int Port() const {
    const auto text = ReadFile(out_);
    const size_t at = text.ok() ? text->find("http://127.0.0.1:") : std::string::npos;
    if (at == std::string::npos || text->find('\n', at) == std::string::npos) return 0;
    return std::atoi(text->c_str() + at + std::string("http://127.0.0.1:").size());
  }
  ChildProcess& process() { return process_; }

 private:
  const fs::path out_;
  ChildProcess process_;
};

// Threads that rank golden requests one after the other, until told to stop, or, once the server
// may go, until it says that it does or nobody listens any more: what was not accepted is no loss.
class Clients {
 public:
  Clients(int port, std::vector<std::string> bodies) : bodies_(std::move(bodies)) {
    for (int i = 0; i < kClients; ++i) threads_.emplace_back([this, port, i] { Run(port, i); });
  }
  ~Clients() { Stop(); }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  void ServerMayGo() { may_go_ = true; }
  int64_t answered() const { return answered_; }
  int64_t failed() const { return failed_; }
  int64_t versions_seen() const { return versions_seen_; }  // changes, of all clients

 private:
  void Run(int port, int client) {
    httplib::Client http("127.0.0.1", port);
    http.set_keep_alive(true);
    http.set_read_timeout(60);
    std::string last;
    for (size_t i = static_cast<size_t>(client); !stop_; ++i) {
      const auto answer = http.Post("/v1/rank", bodies_[i % bodies_.size()], "application/json");
      if (!answer && answer.error() == httplib::Error::Connection && may_go_) return;
      const json body = answer ? json::parse(answer->body, nullptr, false) : json();
      if (!answer || answer->status != 200 || !body.contains("version")) {
        ++failed_;
        ADD_FAILURE() << (answer ? answer->body : httplib::to_string(answer.error()));
        return;
      }
      ++answered_;
      versions_seen_ += body["version"] == last ? 0 : 1;
      last = body["version"];
      if (may_go_ && answer->get_header_value("Connection") == "close") return;
    }
  }

  const std::vector<std::string> bodies_;
  std::atomic<bool> stop_ = false, may_go_ = false;
  std::atomic<int64_t> answered_ = 0, failed_ = 0, versions_seen_ = 0;
  std::vector<std::thread> threads_;
};

class ReloadTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    run_ = new Config(SmallRun(folder_->path(), "run"));
    run_->commit.every_steps = kEvery;
    run_->commit.keep = 100;
    run_->train.max_steps = kEvery * kBundles;
    RunToTheEnd(*run_);
  }
  static void TearDownTestSuite() {
    delete run_;
    delete folder_;
  }

  // Bundle `i` of kBundles: two full ones, the others deltas.
  void Export(int64_t i) const {
    ExportOptions options{
        .from = CommitAt(*run_, i * kEvery), .out = bundles_.path(), .golden = 16};
    if (i % 4 != 1) options.since = (i - 1) * kEvery;
    const auto bundle = ExportBundle(options);
    ASSERT_TRUE(bundle.ok()) << bundle.status();
  }
  static json Golden(const fs::path& dir, int64_t step) {
    return json::parse(*ReadFile(dir / BundleName(step) / kBundleGolden)).at("requests");
  }
  std::vector<std::string> Bodies() const {
    std::vector<std::string> bodies;
    for (const json& golden : Golden(bundles_.path(), kEvery)) {
      bodies.push_back(golden.at("request").dump());
    }
    return bodies;
  }

  static TempFolder* folder_;
  static Config* run_;
  const TempFolder bundles_, logs_;
};
TempFolder* ReloadTest::folder_ = nullptr;
Config* ReloadTest::run_ = nullptr;

TEST_F(ReloadTest, BundlesAndDeltasUnderLoadFailNoRequest) {
  Export(1);
  Server server(bundles_.path(), logs_.path());
  Clients clients(server.Port(), Bodies());
  const auto served = [&server]() -> std::string {
    const auto answer = httplib::Client("127.0.0.1", server.Port()).Get("/v2/models/savior");
    return answer ? answer->body : "";
  };
  for (int64_t i = 2; i <= kBundles; ++i) {
    Export(i);
    ASSERT_TRUE(KeepNewestChains(bundles_.path(), 1).ok());
    WaitUntil("bundle " + BundleName(i * kEvery), [&] {
      return served().find(BundleName(i * kEvery)) != std::string::npos || clients.failed() > 0;
    });
    const int64_t before = clients.answered();
    WaitUntil("answers",
              [&] { return clients.answered() >= before + 5 * kClients || clients.failed() > 0; });
  }
  clients.Stop();
  EXPECT_EQ(clients.failed(), 0);
  EXPECT_GT(clients.answered(), 5 * kClients * (kBundles - 1));
  EXPECT_GE(clients.versions_seen(), kClients * kBundles / 2) << "they were answered by new ones";
  // The full bundle of step 50 and its delta; the chain before it was served, and is gone.
  EXPECT_FALSE(fs::exists(bundles_ / BundleName(kEvery)));

  httplib::Client http("127.0.0.1", server.Port());
  for (const json& golden : Golden(bundles_.path(), kBundles * kEvery)) {
    const auto answer = http.Post("/v1/rank", golden.at("request").dump(), "application/json");
    ASSERT_TRUE(answer && answer->status == 200);
    const json body = json::parse(answer->body);
    EXPECT_EQ(body.at("version"), BundleName(kBundles * kEvery));
    for (const char* score : {"p_ctr", "p_ctcvr"}) {
      ASSERT_EQ(body.at(score).size(), golden.at(score).size());
      for (size_t n = 0; n < golden.at(score).size(); ++n) {
        EXPECT_NEAR(body.at(score)[n].get<double>(), golden.at(score)[n].get<double>(), 1e-5);
      }
    }
  }
}

TEST_F(ReloadTest, ASignalUnderLoadAnswersWhatWasAccepted) {
  Export(1);
  Server server(bundles_.path(), logs_.path());
  Clients clients(server.Port(), Bodies());
  WaitUntil("answers", [&] { return clients.answered() >= 20 * kClients || clients.failed() > 0; });
  clients.ServerMayGo();
  server.process().Signal(SIGTERM);
  const Ended ended = server.process().Wait(kLimit);
  clients.Stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(clients.failed(), 0);
  EXPECT_THAT(ended.out, testing::HasSubstr("stopping: answering what is under way"));
}

// Who has the files mapped keeps them, whatever is deleted.
TEST_F(ReloadTest, OlderChainsAreDeletedNotWhatIsServedOrMapped) {
  for (int64_t i = 1; i <= kBundles; ++i) Export(i);
  const fs::path& dir = bundles_.path();
  const std::string old = BundleName(4 * kEvery);
  const auto mapped = LoadScorer(dir, old, /*digests=*/true);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  const auto golden = *ParseGolden(*ReadFile(dir / old / kBundleGolden));
  const auto names = [&] {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(dir)) found.push_back(entry.path().filename());
    std::ranges::sort(found);
    return found;
  };
  const auto all = names();
  ASSERT_TRUE(KeepNewestChains(dir, 2).ok());
  EXPECT_EQ(names(), all) << "there are two chains";
  // What was begun and not ended before: a delta of the older chain, already out of sight.
  fs::rename(dir / old, dir / (old + ".part"));
  ASSERT_TRUE(KeepNewestChains(dir, 1).ok());
  EXPECT_THAT(names(), testing::ElementsAre(BundleName(50), BundleName(60), "current", "lock"));
  EXPECT_TRUE(VerifyBundle(dir, BundleName(60)).ok());
  EXPECT_LE(Compare(**mapped, golden)->max_difference, 1e-5);

  // `current` on an older chain than another one: it stays, whatever is newer.
  Config again = *run_;
  ASSERT_TRUE(ExportBundle({.from = CommitAt(again, 20), .out = dir, .golden = 2}).ok());
  ASSERT_TRUE(KeepNewestChains(dir, 2).ok());
  EXPECT_TRUE(fs::exists(dir / BundleName(60)));
  ASSERT_TRUE(KeepNewestChains(dir, 1).ok());
  EXPECT_THAT(names(), testing::ElementsAre(BundleName(20), "current", "lock"));

  // Nothing is deleted where it is not known what is served.
  fs::remove(dir / BundleName(20) / kBundleReady);
  EXPECT_TRUE(absl::IsDataLoss(KeepNewestChains(dir, 1)));
  EXPECT_TRUE(fs::exists(dir / BundleName(20)));
}

}  // namespace
}  // namespace savior
