#include "launcher/commit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/files.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

CommitManifest Manifest(int64_t step) {
  CommitManifest manifest;
  manifest.step = step;
  manifest.samples = 10 * step;
  manifest.log_fingerprint = "0123abcd";
  manifest.shards = 2;
  OptimizerSpec adam;
  adam.kind = OptimizerKind::kAdam;
  adam.lr = 0.03f;
  adam.weight_decay = 1e-7f;
  OptimizerSpec none;
  none.kind = OptimizerKind::kNone;
  manifest.tables = {{.name = "user", .dim = 8, .optimizer = adam, .init_scale = 0.02f},
                     {.name = "content",
                      .dim = 12,
                      .kind = TableKind::kFrozen,
                      .optimizer = none,
                      .dtype = StoreDtype::kFloat16},
                     {.name = "item",
                      .dim = 8,
                      .optimizer = adam,
                      .dtype = StoreDtype::kBfloat16,
                      .admission = {.kind = AdmissionKind::kCount, .count = 3},
                      .eviction = {.idle_steps = 5,
                                   .min_score = 0.01f,
                                   .score_idle_steps = 3,
                                   .capacity_rows = uint64_t{1} << 40,
                                   .floor_rows = 7,
                                   .max_share_per_minute = 0.05f},
                      .bad_gradients = BadGradients::kSkip},
                     {.name = "feature",
                      .dim = 4,
                      .optimizer = adam,
                      .admission = {.kind = AdmissionKind::kProbability, .probability = 0.1f}}};
  return manifest;
}

// Files at the top and in folders, one of them empty.
absl::Status Fill(const fs::path& folder) {
  fs::create_directories(folder / "shard-0");
  fs::create_directories(folder / "shard-1" / "deeper");
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / "dense.safetensors", "weights"));
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / "resolved.toml", ""));
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / "shard-0" / "1.sst", "rows of shard 0"));
  return WriteFileAtomically(folder / "shard-1" / "deeper" / "2.sst", std::string(5000, 'r'));
}

Commit Write(const fs::path& commits, int64_t step) {
  absl::StatusOr<Commit> commit = WriteCommit(commits, Manifest(step), Fill);
  EXPECT_TRUE(commit.ok()) << commit.status();
  return *std::move(commit);
}

std::string BytesOf(const fs::path& path) { return ReadFile(path).value(); }

// In place, as a bad disk does it.
void Overwrite(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Changes what the manifest of a commit says; its own digest holds.
void WriteManifest(const Commit& commit, const std::function<void(nlohmann::ordered_json*)>& edit) {
  auto json = nlohmann::ordered_json::parse(BytesOf(commit.folder / "manifest.json"));
  edit(&json);
  json.erase("xxh3");
  json["xxh3"] = DigestBytes(json.dump());
  Overwrite(commit.folder / "manifest.json", json.dump(1) + "\n");
}

std::vector<std::string> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

TEST(Commit, OpensAsItWasWritten) {
  const TempFolder folder;
  const Commit written = Write(folder / "commits", 42);
  EXPECT_EQ(written.folder.filename(), "commit-000000000042");
  const auto opened = OpenCommit(written.folder, /*digests=*/true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const CommitManifest& manifest = opened->manifest;
  EXPECT_EQ(manifest.step, 42);
  EXPECT_EQ(manifest.samples, 420);
  EXPECT_EQ(manifest.log_fingerprint, "0123abcd");
  EXPECT_EQ(manifest.shards, 2u);
  EXPECT_EQ(manifest.tables, Manifest(42).tables);
  std::vector<std::string> paths;
  for (const SealedFile& file : manifest.files) paths.push_back(file.path);
  EXPECT_THAT(paths, ElementsAre("dense.safetensors", "resolved.toml", "shard-0/1.sst",
                                 "shard-1/deeper/2.sst"));
  EXPECT_EQ(manifest.files[3].bytes, 5000u);
}

// The manifest of a commit from before tables had rules.
TEST(Commit, WithoutRulesOpensWithTheirDefaults) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 42);
  WriteManifest(commit, [](auto* json) {
    for (auto& table : (*json)["tables"]) {
      for (const char* key : {"admission", "eviction", "bad_gradients"}) {
        EXPECT_EQ(table.erase(key), 1u) << key;
      }
    }
  });
  const auto opened = OpenCommit(commit.folder, /*digests=*/true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  for (size_t t = 0; t < opened->manifest.tables.size(); ++t) {
    TableSpec expected = Manifest(42).tables[t];
    expected.admission = {};
    expected.eviction = {};
    expected.bad_gradients = BadGradients::kReject;
    EXPECT_EQ(opened->manifest.tables[t], expected);
  }
}

TEST(Commit, AFlippedByteInAnyFileIsDamageThatNamesTheFile) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 1);
  for (const SealedFile& file : commit.manifest.files) {
    const fs::path path = commit.folder / file.path;
    const std::string bytes = BytesOf(path);
    for (const size_t at : {size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
      if (bytes.empty()) break;
      std::string flipped = bytes;
      flipped[at] ^= 1;
      Overwrite(path, flipped);
      const absl::Status status = OpenCommit(commit.folder, /*digests=*/true).status();
      EXPECT_TRUE(absl::IsDataLoss(status)) << file.path << " at " << at << ": " << status;
      EXPECT_THAT(status.message(), HasSubstr(path.string()));
    }
    Overwrite(path, bytes);
  }
  EXPECT_TRUE(OpenCommit(commit.folder, /*digests=*/true).ok());
}

TEST(Commit, ALongerShorterOrMissingFileIsSeenWithoutDigests) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 1);
  for (const SealedFile& file : commit.manifest.files) {
    const fs::path path = commit.folder / file.path;
    const std::string bytes = BytesOf(path);
    std::vector<std::string> torn = {bytes + "x"};
    if (!bytes.empty()) torn.push_back(bytes.substr(0, bytes.size() - 1));
    for (const std::string& other : torn) {
      Overwrite(path, other);
      const absl::Status status = OpenCommit(commit.folder, /*digests=*/false).status();
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr(path.string()));
    }
    fs::remove(path);
    const absl::Status status = OpenCommit(commit.folder, /*digests=*/false).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("missing"));
    Overwrite(path, bytes);
  }
}

TEST(Commit, AManifestWithAByteFlippedOrCutIsRefused) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 7);
  const fs::path path = commit.folder / "manifest.json";
  const std::string bytes = BytesOf(path);
  for (size_t at = 0; at < bytes.size(); ++at) {
    // Bit 5 makes other cases of letters: "1E-8" is a number too.
    const int bit =
        std::isalpha(static_cast<unsigned char>(bytes[at])) ? 5 : static_cast<int>(at % 8);
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
    Overwrite(path, flipped);
    const absl::Status status = OpenCommit(commit.folder, /*digests=*/false).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << "byte " << at << ", bit " << bit << ": " << status;
    ASSERT_THAT(status.message(), HasSubstr(path.string()));
    if (at % 50 != 0) continue;
    Overwrite(path, bytes.substr(0, at));
    ASSERT_TRUE(absl::IsDataLoss(OpenCommit(commit.folder, false).status())) << "cut at " << at;
  }
}

TEST(Commit, NothingOfItIsNotFound) {
  const TempFolder folder;
  EXPECT_TRUE(absl::IsNotFound(OpenCommit(folder / "nowhere", false).status()));
  EXPECT_TRUE(absl::IsNotFound(NewestCommit(folder / "commits").status()));
  fs::create_directories(folder / "commits" / "something-else");
  EXPECT_TRUE(absl::IsNotFound(NewestCommit(folder / "commits").status()));
  EXPECT_TRUE(ListCommits(folder / "nowhere").empty());
}

TEST(Commit, TheNewestIsTheOneOfTheHighestStep) {
  const TempFolder folder;
  for (const int64_t step : {9, 100, 20}) Write(folder / "commits", step);
  EXPECT_EQ(NewestCommit(folder / "commits")->manifest.step, 100);
}

TEST(Commit, DamagedNewestIsPassedOver) {
  const TempFolder folder;
  const Commit older = Write(folder / "commits", 1);
  const Commit newer = Write(folder / "commits", 2);
  const Commit newest = Write(folder / "commits", 3);
  Overwrite(newer.folder / "dense.safetensors", "weighty");
  fs::remove(newest.folder / "manifest.json");
  const auto found = NewestCommit(folder / "commits");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->manifest.step, 1);
}

TEST(Commit, AllDamagedIsDataLossNotAFreshStart) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 1);
  Overwrite(commit.folder / "dense.safetensors", "weighty");
  const absl::Status status = NewestCommit(folder / "commits").status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("dense.safetensors"));
}

TEST(Commit, UnfinishedOnesAreIgnoredReplacedAndCleaned) {
  const TempFolder folder;
  const fs::path commits = folder / "commits";
  Write(commits, 1);
  for (const char* name : {"commit-000000000002.part", "commit-000000000009.part"}) {
    fs::create_directories(commits / name / "shard-0");
    Overwrite(commits / name / "left.sst", "half a commit");
  }
  EXPECT_EQ(NewestCommit(commits)->manifest.step, 1);
  EXPECT_EQ(ListCommits(commits).size(), 1u);
  const auto fill = [&commits](const fs::path& part) {
    // Before anything is written: a full disk has room again.
    EXPECT_FALSE(fs::exists(commits / "commit-000000000009.part"));
    return Fill(part);
  };
  const auto second = WriteCommit(commits, Manifest(2), fill);  // where a former one left its part
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(fs::exists(second->folder / "left.sst"));
  EXPECT_THAT(NamesIn(commits), ElementsAre("commit-000000000001", "commit-000000000002"));
}

TEST(Commit, FillThatFailsLeavesNoCommit) {
  const TempFolder folder;
  const fs::path commits = folder / "commits";
  Write(commits, 1);
  const auto fail = [](const fs::path& part) {
    Overwrite(part / "dense.safetensors", "hal");
    return absl::ResourceExhaustedError("writing dense.safetensors: No space left on device");
  };
  const absl::Status status = WriteCommit(commits, Manifest(2), fail).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("commit-000000000002"));
  EXPECT_EQ(NewestCommit(commits)->manifest.step, 1);
  EXPECT_THAT(NamesIn(commits), ElementsAre("commit-000000000001"));
}

TEST(Commit, TheSameStepAgainReplaces) {
  const TempFolder folder;
  Write(folder / "commits", 3);
  const auto fill = [](const fs::path& part) { return WriteFileAtomically(part / "other", "x"); };
  const auto again = WriteCommit(folder / "commits", Manifest(3), fill);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(NamesIn(again->folder), ElementsAre("manifest.json", "other"));
  EXPECT_TRUE(OpenCommit(again->folder, /*digests=*/true).ok());
}

TEST(Commit, KeepNewestDeletesTheOlder) {
  const TempFolder folder;
  const fs::path commits = folder / "commits";
  for (const int64_t step : {5, 10, 15, 1000}) Write(commits, step);
  ASSERT_TRUE(KeepNewest(commits, 2).ok());
  EXPECT_THAT(NamesIn(commits), ElementsAre("commit-000000000015", "commit-000000001000"));
  ASSERT_TRUE(KeepNewest(commits, 2).ok());
  ASSERT_TRUE(KeepNewest(commits, 1).ok());
  EXPECT_THAT(NamesIn(commits), ElementsAre("commit-000000001000"));
  EXPECT_TRUE(KeepNewest(folder / "nowhere", 1).ok());
  // What is read stays.
  for (const int64_t step : {5, 10}) Write(commits, step);
  ASSERT_TRUE(KeepNewest(commits, 1, {commits / "commit-000000000005"}).ok());
  EXPECT_THAT(NamesIn(commits), ElementsAre("commit-000000000005", "commit-000000001000"));
}

TEST(Commit, KeepNewestLeavesAllThatArePinned) {
  const TempFolder folder;
  const fs::path commits = folder / "commits";
  for (const int64_t step : {1, 2, 3, 4}) Write(commits, step);
  // However their folder is written, and whether they are there.
  const std::vector<fs::path> pinned = {commits / "." / "commit-000000000001",
                                        CommitFolder("elsewhere/commits", 3),
                                        commits / "commit-000000000099"};
  ASSERT_TRUE(KeepNewest(commits, 1, pinned).ok());
  EXPECT_THAT(NamesIn(commits),
              ElementsAre("commit-000000000001", "commit-000000000003", "commit-000000000004"));
}

TEST(Commit, SaysWhichCodebookIsInUse) {
  const TempFolder folder;
  for (const CodebookState& state :
       {CodebookState{}, CodebookState{7, 42, 6, true}, CodebookState{7, 40, 0, false},
        CodebookState{6, 42, 7, false}, CodebookState{UINT32_MAX, 0, UINT32_MAX - 1, true}}) {
    CommitManifest manifest = Manifest(42);
    manifest.codebook = state;
    const auto written = WriteCommit(folder / "commits", manifest, Fill);
    ASSERT_TRUE(written.ok()) << written.status();
    const auto opened = OpenCommit(written->folder, /*digests=*/true);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(opened->manifest.codebook, state);
  }
}

TEST(Commit, FromBeforeCodebooksHadVersionsHasVersionZero) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 42);
  WriteManifest(commit, [](auto* json) { EXPECT_EQ(json->erase("codebook"), 1u); });
  const auto opened = OpenCommit(commit.folder, /*digests=*/true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->manifest.codebook, CodebookState{});
}

TEST(Commit, AWrongCodebookIsDamageThatNamesTheField) {
  const TempFolder folder;
  const Commit commit = Write(folder / "commits", 42);
  const auto write = [&](const char* field, const nlohmann::ordered_json& value) {
    WriteManifest(commit, [&](auto* json) {
      (*json)["codebook"] = {
          {"version", 3}, {"since_step", 42}, {"previous", 2}, {"probation", true}};
      if (value.is_null()) {
        (*json)["codebook"].erase(field);
      } else {
        (*json)["codebook"][field] = value;
      }
    });
    return OpenCommit(commit.folder, /*digests=*/false).status();
  };
  EXPECT_TRUE(write("version", 3).ok());
  const std::vector<std::pair<const char*, nlohmann::ordered_json>> wrong = {
      {"version", -1},      {"version", 1.5},
      {"version", "3"},     {"version", uint64_t{1} << 32},
      {"version", nullptr}, {"since_step", -1},
      {"since_step", 43},   {"previous", 1},  // on probation is the version after it
      {"previous", 3},      {"previous", true},
      {"probation", 1},     {"probation", nullptr},
      {"encoder", -1},      {"encoder", 2},  // one more than the one before it, at most
      {"encoder", "1"},     {"previous_encoder", 1},
      {"builds", -1},       {"build", 1},  // of none
      {"build", "0"},       {"previous_build", 1}};
  for (const auto& [field, value] : wrong) {
    const absl::Status status = write(field, value);
    EXPECT_TRUE(absl::IsDataLoss(status)) << field << " " << value << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr("manifest.json"));
    EXPECT_THAT(status.message(), HasSubstr(field));
  }
}

TEST(CodebookState, RolledBackHasTheFormerVersionAndItsFile) {
  const CodebookState first, probation{5, 120, 4, true};
  EXPECT_STREQ(CodebookFileOf(first), kCodebookFile);
  EXPECT_STREQ(CodebookFileOf(probation), kCodebookFile);
  const CodebookState back = RolledBack(probation);
  EXPECT_EQ(back, (CodebookState{4, 120, 5, false, /*by_hand_only=*/true}));
  EXPECT_STREQ(CodebookFileOf(back), kPreviousCodebookFile);
  EXPECT_STREQ(EncoderFileOf(back), kEncoderFile);
  EXPECT_FALSE(KeepsFormerEncoder(probation));
}

TEST(CodebookState, TheEncoderGoesBackWithTheCodebookItWasRefreshedWith) {
  const CodebookState state{5, 120, 4, true, false, /*encoder=*/2, /*previous_encoder=*/1};
  EXPECT_TRUE(KeepsFormerEncoder(state));
  EXPECT_STREQ(EncoderFileOf(state), kEncoderFile);
  const CodebookState back = RolledBack(state);
  EXPECT_EQ(back.encoder, 1u);
  EXPECT_STREQ(EncoderFileOf(back), kPreviousEncoderFile);
  EXPECT_FALSE(KeepsFormerEncoder(back));
  for (const CodebookState& each : {state, back, CodebookState{}}) {
    const auto text = ToJson(each).dump();
    const auto read = CodebookStateFromJson(nlohmann::ordered_json::parse(text), 120);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, each);
  }
}

TEST(CodebookState, RowsOfPrefixesGoBackWithTheCodebookTheyWereMadeFor) {
  CodebookState state{5, 120, 4, true};
  state.builds = 7;
  state.build = 7;
  state.previous_build = 4;
  const CodebookState back = RolledBack(state);
  EXPECT_EQ(back.build, 4u);
  EXPECT_EQ(back.previous_build, 7u);
  EXPECT_EQ(back.builds, 7u) << "no number is used twice";
  for (const CodebookState& each : {state, back}) {
    const auto text = ToJson(each).dump();
    const auto read = CodebookStateFromJson(nlohmann::ordered_json::parse(text), 120);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, each);
  }
}

TEST(Commit, RepublishedHasTheSameFilesAndAnotherManifest) {
  const TempFolder folder;
  const fs::path commits = folder / "commits";
  CommitManifest manifest = Manifest(42);
  manifest.codebook = {1, 42, 0, true};
  const auto written = WriteCommit(commits, manifest, Fill);
  ASSERT_TRUE(written.ok()) << written.status();
  const auto again = RepublishCommit(commits, 42, [](CommitManifest* changed) {
    changed->codebook = RolledBack(changed->codebook);
    changed->step = 7;
    changed->files.clear();
  });
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->folder, written->folder);
  const auto opened = NewestCommit(commits);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->manifest.codebook, RolledBack(manifest.codebook));
  EXPECT_EQ(opened->manifest.step, 42);
  EXPECT_EQ(opened->manifest.tables, manifest.tables);
  ASSERT_EQ(opened->manifest.files.size(), written->manifest.files.size());
  for (size_t i = 0; i < opened->manifest.files.size(); ++i) {
    EXPECT_EQ(opened->manifest.files[i].path, written->manifest.files[i].path);
    EXPECT_EQ(opened->manifest.files[i].xxh3, written->manifest.files[i].xxh3);
  }
  EXPECT_THAT(NamesIn(opened->folder), ElementsAre("dense.safetensors", "manifest.json",
                                                   "resolved.toml", "shard-0", "shard-1"));
  EXPECT_TRUE(absl::IsNotFound(RepublishCommit(commits, 43, [](auto*) {}).status()));
  fs::remove(opened->folder / "dense.safetensors");
  EXPECT_TRUE(absl::IsDataLoss(RepublishCommit(commits, 42, [](auto*) {}).status()));
}

}  // namespace
}  // namespace savior
