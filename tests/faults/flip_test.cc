// Flipped bits, missing and swapped folders, in commits and bundles: each is refused, and the file
// named.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/random.h"
#include "launcher/bundle_export.h"
#include "launcher/commit.h"
#include "launcher/run_store.h"
#include "ps/restore.h"
#include "serving/bundle.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/launcher/small_run.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

void Flip(const fs::path& path, uint64_t offset, int bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(static_cast<char>(byte ^ (1 << bit)));
  ASSERT_TRUE(file.good()) << path;
}

std::vector<std::pair<fs::path, uint64_t>> FilesOf(const fs::path& folder) {
  std::vector<std::pair<fs::path, uint64_t>> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.file_size() > 0) {
      files.emplace_back(entry.path(), entry.file_size());
    }
  }
  return files;
}

// Opens a folder, reading every byte.
using Open = absl::Status (*)(const fs::path&);

absl::Status OpenACommit(const fs::path& folder) {
  return OpenCommit(folder, /*digests=*/true).status();
}
absl::Status OpenABundle(const fs::path& folder) {
  return OpenBundle(folder, /*digests=*/true).status();
}

class FlipTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder("/dev/shm");
    MakeRaw(folder_->path());
    Config config = SmallRun(folder_->path(), "run");
    config.train.max_steps = 8;
    config.ps.shards = 2;
    RunToTheEnd(config);
    const auto bundle =
        ExportBundle({.from = config.run.dir, .out = *folder_ / "out", .golden = 3});
    ASSERT_TRUE(bundle.ok()) << bundle.status();
    // Copies: files of commits are shared with others by links.
    fs::copy(ListCommits(fs::path(config.run.dir) / "commits").back(), Commit(),
             fs::copy_options::recursive);
    fs::copy(bundle->folder, Bundle(), fs::copy_options::recursive);
    ASSERT_TRUE(OpenACommit(Commit()).ok());
    ASSERT_TRUE(OpenABundle(Bundle()).ok());
  }
  static void TearDownTestSuite() { delete folder_; }

  static fs::path Commit() { return *folder_ / "commit"; }
  static fs::path Bundle() { return *folder_ / "bundle"; }

  // Flips one bit, opens, flips it back. True: refused, and the file named.
  static bool Refused(Open open, const fs::path& folder, const fs::path& file, uint64_t offset,
                      int bit) {
    Flip(file, offset, bit);
    const absl::Status status = open(folder);
    Flip(file, offset, bit);
    const bool refused = absl::IsDataLoss(status) &&
                         std::string(status.message()).find(file.string()) != std::string::npos;
    EXPECT_TRUE(refused) << file << ", byte " << offset << ", bit " << bit << ": " << status;
    return refused;
  }

  // Files in turn, so that small ones get their share; offsets and bits by chance.
  static void FlipSome(const std::string& test, Open open, const fs::path& folder) {
    Random random(TestSeed());
    const auto files = FilesOf(folder);
    const int flips = LongForm() ? 1000 : 200;
    int refused = 0;
    for (int i = 0; i < flips; ++i) {
      const auto& [file, bytes] = files[static_cast<size_t>(i) % files.size()];
      refused +=
          Refused(open, folder, file, random.Below(bytes), static_cast<int>(random.Below(8)));
    }
    EXPECT_TRUE(open(folder).ok());
    PrintFigure(test, fmt::format("{} of {} flipped bits in {} files refused and named", refused,
                                  flips, files.size()));
  }

  // Every byte, one bit of it.
  static std::pair<uint64_t, uint64_t> FlipAll(Open open, const fs::path& folder,
                                               const std::string& name) {
    const uint64_t bytes = fs::file_size(folder / name);
    uint64_t refused = 0;
    for (uint64_t at = 0; at < bytes; ++at) {
      refused += Refused(open, folder, folder / name, at, static_cast<int>(at % 8));
    }
    return {refused, bytes};
  }

  static TempFolder* folder_;
};
TempFolder* FlipTest::folder_ = nullptr;

TEST_F(FlipTest, ABitOfACommitsFilesIsRefused) { FlipSome("flip_commit", OpenACommit, Commit()); }

TEST_F(FlipTest, ABitOfABundlesFilesIsRefused) { FlipSome("flip_bundle", OpenABundle, Bundle()); }

TEST_F(FlipTest, AnyByteOfAManifestIsRefused) {
  const auto sizes_only = [](const fs::path& folder) {
    return OpenCommit(folder, /*digests=*/false).status();
  };
  const auto bundle_sizes_only = [](const fs::path& folder) {
    return OpenBundle(folder, /*digests=*/false).status();
  };
  const auto commit = FlipAll(sizes_only, Commit(), kManifestFile);
  const auto bundle = FlipAll(bundle_sizes_only, Bundle(), kManifestFile);
  const auto ready = FlipAll(bundle_sizes_only, Bundle(), kBundleReady);
  PrintFigure("flip_manifest",
              fmt::format("{} of {} bytes of a commit's manifest, {} of {} of a bundle's, {} of {} "
                          "of its READY refused and named",
                          commit.first, commit.second, bundle.first, bundle.second, ready.first,
                          ready.second));
}

TEST_F(FlipTest, AMissingOrSwappedShardIsRefused) {
  const fs::path one = Commit() / ShardFolder(0), two = Commit() / ShardFolder(1);
  const fs::path aside = *folder_ / "aside";
  RestorePlan plan{.commit = Commit(),
                   .live = *folder_ / "restored",
                   .shards = 2,
                   .count = 2,
                   .tables = ModelTables(SmallRun(folder_->path(), "run")),
                   .seed = 1};
  int refused = 0, tries = 0;
  // By the manifest, and, were that all right, by the shards themselves.
  const auto expect_refused = [&](const fs::path& named) {
    const absl::Status opened = OpenACommit(Commit());
    EXPECT_TRUE(absl::IsDataLoss(opened)) << opened;
    EXPECT_THAT(std::string(opened.message()), HasSubstr(named.string()));
    fs::remove_all(plan.live);
    fs::create_directories(plan.live);
    const absl::Status restored = RestoreShards(plan);
    EXPECT_FALSE(restored.ok());
    EXPECT_THAT(std::string(restored.message()), HasSubstr("shard-"));
    tries += 2;
    refused += absl::IsDataLoss(opened) + !restored.ok();
  };
  for (const fs::path& gone : {one, two}) {
    fs::rename(gone, aside);
    expect_refused(gone);
    fs::rename(aside, gone);
  }
  fs::rename(one, aside);
  fs::rename(two, one);
  fs::rename(aside, two);
  expect_refused(Commit() / "shard-");
  fs::rename(one, aside);
  fs::rename(two, one);
  fs::rename(aside, two);
  // One that is another's copy.
  fs::rename(two, aside);
  fs::copy(one, two, fs::copy_options::recursive);
  expect_refused(two);
  fs::remove_all(two);
  fs::rename(aside, two);
  EXPECT_TRUE(OpenACommit(Commit()).ok());
  PrintFigure("missing_or_swapped_shard",
              fmt::format("{} of {} refused and named", refused, tries));
}

}  // namespace
}  // namespace savior
