// However many threads read a commit, its bundle is the same, byte for byte, and whole or not
// there.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launcher/bundle_export.h"
#include "ps/local_store.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "tests/ps/store_testing.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

class ExportThreadsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    Config config = SmallRun(folder_->path(), "run");
    config.train.max_steps = 20;
    RunToTheEnd(config);
    run_ = new Commit(*FindCommit(config.run.dir));
  }
  static void TearDownTestSuite() {
    delete run_;
    delete folder_;
  }

  // The run's commit at `step` with other user rows: those of `keys`.
  Commit CommitOf(int64_t step, const std::vector<uint64_t>& keys, uint32_t shards) const {
    const std::string name = std::to_string(step);
    auto trained = *InspectedCommit::Open(run_->folder);
    auto store = *LocalStore::Open({.tables = run_->manifest.tables,
                                    .shards = shards,
                                    .ram_budget_bytes = 1 << 20,
                                    .folder = out_ / ("live-" + name),
                                    .seed = static_cast<uint64_t>(trained->config().seed)});
    const absl::Status content = trained->store().ForEachRow(
        kContentTable,
        [&](const StoredRow& row) {
          return PutRows(*store, kContentTable, {&row.key, 1}, row.weights);
        },
        Soon());
    EXPECT_TRUE(content.ok()) << content;
    if (!keys.empty()) {
      Random random(static_cast<uint64_t>(step), 0);
      const size_t dim = store->tables()[kUserTable].dim;
      EXPECT_TRUE(
          PushRows(*store, step, kUserTable, keys, RandomFloats(keys.size() * dim, &random)).ok());
    }
    CommitManifest manifest = run_->manifest;
    manifest.step = step;
    manifest.shards = shards;
    return *WriteCommit(out_ / "commits", manifest, [&](const fs::path& part) {
      for (const char* file : {kResolvedFile, kDenseFile, kEncoderFile, kCodebookFile}) {
        fs::copy_file(run_->folder / file, part / file);
      }
      return store->Checkpoint(part, Soon());
    });
  }

  // What `options` gives with so many threads: digests of its files, by path.
  std::map<std::string, std::string> FilesOf(ExportOptions options, size_t threads) const {
    options.threads = threads;
    options.golden = 2;
    const auto bundle = ExportBundle(options);
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    if (!bundle.ok()) return {};
    const auto verified = VerifyBundle(options.out, bundle->version());
    EXPECT_TRUE(verified.ok()) << verified.status();
    std::map<std::string, std::string> files;
    for (const SealedFile& file : bundle->manifest.files) files[file.path] = file.xxh3;
    EXPECT_GT(files.size(), 12u);
    return files;
  }

  static TempFolder* folder_;
  static Commit* run_;
  const TempFolder out_;
};
TempFolder* ExportThreadsTest::folder_ = nullptr;
Commit* ExportThreadsTest::run_ = nullptr;

TEST_F(ExportThreadsTest, BundlesAreTheSameBytes) {
  std::map<std::string, std::vector<uint64_t>> worlds = {{"no row", {}}, {"one row", {5}}};
  for (uint64_t i = 0; i < 30'000; ++i) {
    worlds["hashed"].push_back(Mix(i));
    worlds["one range"].push_back(i == 0 ? 0 : (uint64_t{1} << 60) + i);
  }
  std::ranges::sort(worlds["hashed"]);
  int64_t step = 1000;
  for (const auto& [name, keys] : worlds) {
    SCOPED_TRACE(name);
    ++step;
    const Commit commit = CommitOf(step, keys, /*shards=*/step % 2 == 0 ? 1 : 3);
    for (const Precision precision : {Precision::kFloat32, Precision::kInt8}) {
      const auto files = [&, this](size_t threads) {
        const std::string out = fmt::format("{}-{}-{}", step, NameOf(precision), threads);
        return FilesOf({.from = commit.folder, .out = out_ / out, .precision = precision}, threads);
      };
      const auto alone = files(1);
      for (const size_t threads : {0, 2, 9}) EXPECT_EQ(files(threads), alone) << threads;
    }
  }
}

TEST_F(ExportThreadsTest, DeltasAreTheSameBytes) {
  std::vector<uint64_t> before, after;
  for (uint64_t i = 0; i < 20'000; ++i) (i % 3 == 0 ? before : after).push_back(Mix(i));
  std::ranges::copy(before.begin(), before.begin() + 3000, std::back_inserter(after));
  std::ranges::sort(before);
  std::ranges::sort(after);
  const Commit first = CommitOf(2000, before, 1), second = CommitOf(2001, after, 1);
  const auto files = [&](size_t threads) {
    const fs::path out = out_ / std::to_string(threads);
    FilesOf({.from = first.folder, .out = out}, threads);
    return FilesOf({.from = second.folder, .out = out, .since = 2000}, threads);
  };
  const auto alone = files(1);
  EXPECT_EQ(files(2), alone);
  EXPECT_EQ(files(7), alone);
}

TEST_F(ExportThreadsTest, AFullDiskEndsAllOfThem) {
  SmallDisk disk(16);
  SAVIOR_NEEDS(disk);
  std::vector<uint64_t> keys;
  for (uint64_t i = 0; i < 400'000; ++i) keys.push_back(Mix(i));
  std::ranges::sort(keys);
  const Commit commit = CommitOf(3000, keys, 1);
  const fs::path dir = disk / "bundles";
  const auto failed = ExportBundle({.from = commit.folder, .out = dir, .golden = 2, .threads = 4});
  EXPECT_TRUE(absl::IsResourceExhausted(failed.status())) << failed.status();
  for (const auto& entry : fs::directory_iterator(dir)) {
    EXPECT_EQ(entry.path().filename(), "lock") << "nothing is half there";
  }
}

}  // namespace
}  // namespace savior
