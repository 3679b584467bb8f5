#include "worker/data/training_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/worker/data/raw_tables.h"
#include "worker/data/arrow_files.h"
#include "worker/data/log_manifest.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using testing::Folder;
using ::testing::HasSubstr;

// A prepared log and its folder.
class TrainingLogFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(PrepareAndOpen(testing::TinyRaw(), folder_, "log"), nullptr);
    log_ = folder_ / "log";
  }

  absl::Status OpenAndReadAll() const {
    const auto log = TrainingLog::Open(log_);
    if (!log.ok()) return log.status();
    for (size_t day = 0; day < (*log)->days().size(); ++day) {
      if (const auto read = (*log)->ReadDay(day); !read.ok()) return read.status();
    }
    return absl::OkStatus();
  }

  // The manifest with the files as they are now.
  void Resign() const {
    auto manifest = ReadLogManifest(log_);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    fs::remove(log_ / kManifestName);
    ASSERT_TRUE(WriteLogManifest(log_, &*manifest).ok());
  }

  const Folder folder_;
  fs::path log_;
};

TEST_F(TrainingLogFiles, MissingLogIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(TrainingLog::Open(folder_ / "nowhere").status()));
  fs::remove(log_ / kManifestName);
  EXPECT_TRUE(absl::IsNotFound(OpenAndReadAll()));
}

TEST_F(TrainingLogFiles, EveryMissingOrCutFileIsNamed) {
  for (const auto& [name, bytes] : testing::FilesOf(log_)) {
    if (name == kManifestName) continue;
    for (const bool cut : {true, false}) {
      if (cut) {
        fs::resize_file(log_ / name, bytes.size() - 1);
      } else {
        fs::remove(log_ / name);
      }
      const absl::Status status = OpenAndReadAll();
      EXPECT_TRUE(absl::IsDataLoss(status)) << name << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(name));
      std::ofstream(log_ / name, std::ios::binary) << bytes;
    }
  }
  EXPECT_TRUE(OpenAndReadAll().ok());
}

TEST_F(TrainingLogFiles, ChangedManifestIsDataLoss) {
  const auto files = testing::FilesOf(log_);
  const std::string& manifest = files.at(kManifestName);
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"items\": 3", "\"items\": 4"}, {"}", ""}, {"\"version\": 1", "\"version\": 9"}}) {
    std::string changed = manifest;
    changed.replace(changed.find(from), from.size(), to);
    std::ofstream(log_ / kManifestName, std::ios::binary) << changed;
    const absl::Status status = OpenAndReadAll();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(kManifestName));
  }
}

TEST_F(TrainingLogFiles, IndicesOutOfRangeAreDataLoss) {
  // As an older or foreign program might have written them: a whole file, wrong inside.
  ColumnSet rows;
  rows.AddValues<int32_t>("item", {0, 1, 2, 3});  // there are items 0, 1 and 2
  rows.AddValues<int8_t>("click", {0, 1, 0, 1});
  rows.AddValues<int8_t>("conversion", {0, 0, 0, 0});
  rows.AddValues<float>("weight", {1, 1, 1, 1});
  rows.AddValues<int32_t>("prior_count", {0, 0, 0, 0});
  rows.AddValues<int32_t>("ctx_channel", {0, 0, 0, 0});
  rows.AddValues<float>("num_hour", {0, 0, 0, 0});
  const std::string name = DaysName(testing::kStart, "rows");
  ASSERT_TRUE(rows.Write(log_ / name).ok());
  Resign();
  const absl::Status status = OpenAndReadAll();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(name));
}

TEST_F(TrainingLogFiles, OtherColumnsAreDataLoss) {
  ColumnSet users;
  users.AddValues<int64_t>("user_id", {10, 20, 30});
  users.AddValues<int32_t>("behaviours", {3, 0, 1});  // int64 is the layout
  ASSERT_TRUE(users.Write(log_ / "users.arrow").ok());
  Resign();
  const absl::Status status = OpenAndReadAll();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("users.arrow: column 'behaviours'"));
}

TEST_F(TrainingLogFiles, FingerprintFollowsTheContent) {
  const auto log = TrainingLog::Open(log_);
  ASSERT_TRUE(log.ok());
  const auto same = PrepareAndOpen(testing::TinyRaw(), folder_, "same");
  testing::RawData raw = testing::TinyRaw();
  raw.impressions[0].click = 1;
  const auto other = PrepareAndOpen(raw, folder_, "other");
  ASSERT_TRUE(same != nullptr && other != nullptr);
  EXPECT_EQ((*log)->fingerprint(), same->fingerprint());
  EXPECT_NE((*log)->fingerprint(), other->fingerprint());
}

}  // namespace
}  // namespace savior
