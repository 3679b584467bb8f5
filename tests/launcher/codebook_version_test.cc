// A commit with two codebook versions: whoever reads it, goes on from it or serves it has the one
// that its manifest says is in use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "launcher/bundle_export.h"
#include "launcher/inspect.h"
#include "serving/bundle_model.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/next_codebook.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kStop = 30;

class CodebookVersion : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    Config config = Named("run");
    config.train.max_steps = kStop;
    RunToTheEnd(config);
    switched_ = new Commit(CommitNextCodebook(config));
  }
  static void TearDownTestSuite() {
    delete switched_;
    delete folder_;
  }

  static Config Named(const std::string& name) {
    Config config = SmallRun(folder_->path(), name);
    config.commit.keep = 100;
    config.train.align_lr = 0.5;  // z~ moves away from z
    config.ps.shards = 2;
    return config;
  }
  static fs::path CommitsOf(const std::string& name) { return *folder_ / name / "commits"; }
  static fs::path Before() { return CommitFolder(CommitsOf("run"), kStop); }
  static fs::path Switched() { return switched_->folder; }
  // A run of its own that is stopped after the switch.
  static Config CopyOfTheRun(const std::string& name) {
    const Config config = Named(name);
    fs::copy(*folder_ / "run", config.run.dir, fs::copy_options::recursive);
    return config;
  }
  static Tables RowsIn(const fs::path& commit) {
    const auto inspected = InspectedCommit::Open(commit);
    EXPECT_TRUE(inspected.ok()) << inspected.status();
    return RowsOf(**inspected);
  }
  static std::map<uint64_t, Row> OfSlot(const Tables& tables, uint64_t slot) {
    std::map<uint64_t, Row> rows;
    for (const auto& [key, row] : tables.at("align")) {
      if (SlotOfAlignKey(key) == slot) rows[WithoutSlot(key)] = row;
    }
    return rows;
  }
  static std::string Look(const InspectArguments& arguments) {
    std::ostringstream out;
    const absl::Status status = Inspect(arguments, out);
    EXPECT_TRUE(status.ok()) << status;
    return out.str();
  }
  static nlohmann::json Digest(const fs::path& path) {
    return nlohmann::json::parse(Look({.what = "digest", .path = path.string(), .json = true}));
  }
  static double Evaluated(const fs::path& commit) {
    std::ostringstream out;
    const auto result = EvaluateRun("", commit.string(), {}, out);
    EXPECT_TRUE(result.ok()) << result.status();
    return result->ctr[0].second.logloss.value_or(0);
  }
  static void RollBack(const fs::path& commits) {
    const auto back = RepublishCommit(commits, kStop + 1, [](CommitManifest* manifest) {
      manifest->codebook = RolledBack(manifest->codebook);
    });
    ASSERT_TRUE(back.ok()) << back.status();
  }

  static TempFolder* folder_;
  static Commit* switched_;
  const TempFolder out_;
};
TempFolder* CodebookVersion::folder_ = nullptr;
Commit* CodebookVersion::switched_ = nullptr;

TEST_F(CodebookVersion, InUseIsExportedAloneAndScoresAsTheLiveModel) {
  for (const Precision precision : {Precision::kFloat32, Precision::kInt8}) {
    const fs::path out = out_ / NameOf(precision);
    const auto bundle =
        ExportBundle({.from = Switched(), .out = out, .precision = precision, .golden = 40});
    ASSERT_TRUE(bundle.ok()) << bundle.status();
    const auto verified = VerifyBundle(out, bundle->version());
    EXPECT_TRUE(verified.ok()) << verified.status();
    if (!verified.ok()) continue;
    EXPECT_EQ(verified->parity.requests, 40);
    EXPECT_GT(verified->rows_compared, 100);
  }
  // The keys and codes of one version, as in any other bundle.
  const BundleChain chain = *OpenChain(out_ / "float32", BundleName(kStop + 1), /*digests=*/true);
  const auto model = BundleModel::Load(chain, out_.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const Tables rows = RowsIn(Switched());
  const TableChain align = *chain.Table("align");
  size_t n = 0;
  for (TableChain::Cursor cursor(&align); cursor.at(); cursor.Next(), ++n) {
    EXPECT_EQ(SlotOfAlignKey(cursor.at()->key()), 0u);
  }
  EXPECT_EQ(n, OfSlot(rows, 1).size());
  const ContentLayout layout = {16, 2};
  for (const auto& [key, row] : rows.at("content")) {
    const auto codes = (*model)->Codes(key);
    ASSERT_TRUE(codes);
    EXPECT_EQ((*codes)[0], static_cast<uint16_t>(row.weights[layout.codes(1)])) << key;
    EXPECT_NE((*codes)[0], static_cast<uint16_t>(row.weights[layout.codes(0)])) << key;
  }
  // Its codebook, too: cold items get their codes from it.
  EXPECT_EQ(*ReadFile(chain.newest().folder / kCodebookFile),
            *ReadFile(Switched() / kCodebookFile));
}

TEST_F(CodebookVersion, ADeltaAcrossASwitchAmountsToAFullExport) {
  const fs::path chain = out_ / "chain", full = out_ / "full", merged = out_ / "merged";
  ASSERT_TRUE(ExportBundle({.from = Before(), .out = chain, .golden = 8}).ok());
  const auto delta = ExportBundle({.from = Switched(), .out = chain, .since = kStop, .golden = 40});
  ASSERT_TRUE(delta.ok()) << delta.status();
  const auto verified = VerifyBundle(chain, BundleName(kStop + 1));
  EXPECT_TRUE(verified.ok()) << verified.status();
  EXPECT_GT(verified.ok() ? verified->rows_compared : 0, 100);
  ASSERT_TRUE(ExportBundle({.from = Switched(), .out = full, .golden = 8}).ok());
  const auto merge = MergeBundle(chain, BundleName(kStop + 1), merged);
  ASSERT_TRUE(merge.ok()) << merge.status();
  for (const BundleManifest::Table& table : merge->manifest.tables) {
    const fs::path file = fs::path(BundleName(kStop + 1)) / TableFileName(table.name);
    EXPECT_EQ(*ReadFile(merged / file), *ReadFile(full / file)) << table.name;
  }
}

// A bundle against a commit whose manifest has changed since.
TEST_F(CodebookVersion, VerifyingComparesWithTheCommitOfTheBundlesCodebook) {
  const Config config = CopyOfTheRun("exported");
  const fs::path commits = CommitsOf("exported");
  const auto bundle =
      ExportBundle({.from = CommitFolder(commits, kStop + 1), .out = out_.path(), .golden = 4});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto verify = [&] { return VerifyBundle(out_.path(), bundle->version()); };
  EXPECT_GT(verify()->rows_compared, 100);
  RollBack(commits);
  const auto rolled_back = verify();
  ASSERT_TRUE(rolled_back.ok()) << rolled_back.status();
  EXPECT_EQ(rolled_back->rows_compared, 0);
  // The same codebook, and the other's rows.
  const auto wrong = RepublishCommit(commits, kStop + 1, [](CommitManifest* manifest) {
    manifest->codebook = {.version = 2, .since_step = kStop + 1, .previous = 1};
  });
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  const absl::Status status = verify().status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("table align, key"));
}

TEST_F(CodebookVersion, InUseIsWhatIsEvaluated) {
  const Config config = CopyOfTheRun("evaluated");
  const fs::path commit = CommitFolder(CommitsOf("evaluated"), kStop + 1);
  const double before = Evaluated(Before());
  EXPECT_NE(Evaluated(commit), before);
  RollBack(CommitsOf("evaluated"));
  EXPECT_EQ(Evaluated(commit), before);
}

TEST_F(CodebookVersion, InUseIsWhatAResumedRunTrainsAndCommits) {
  Config config = CopyOfTheRun("resumed");
  config.commit.every_steps = 10;
  config.train.max_steps = kStop + 21;
  RunToTheEnd(config, /*resume=*/true);
  const Tables before = RowsIn(Switched());
  const auto newest = NewestCommit(CommitsOf("resumed"));
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->manifest.step, kStop + 21);
  EXPECT_EQ(newest->manifest.codebook, switched_->manifest.codebook);
  const Tables after = RowsIn(newest->folder);
  EXPECT_TRUE(OfSlot(after, 0) == OfSlot(before, 0)) << "rows of the version before were touched";
  EXPECT_FALSE(OfSlot(after, 1) == OfSlot(before, 1)) << "nothing was learned";
  for (const char* name : {kCodebookFile, kPreviousCodebookFile}) {
    EXPECT_EQ(*ReadFile(newest->folder / name), *ReadFile(Switched() / name)) << name;
  }
}

TEST_F(CodebookVersion, OnProbationTheCommitOfTheSwitchStays) {
  Config config = CopyOfTheRun("pinned");
  config.commit.every_steps = 5;
  config.commit.keep = 2;
  config.train.max_steps = kStop + 21;
  RunToTheEnd(config, /*resume=*/true);
  std::vector<std::string> names;
  for (const fs::path& commit : ListCommits(CommitsOf("pinned"))) {
    names.push_back(commit.filename().string());
  }
  EXPECT_THAT(names, testing::ElementsAre("commit-000000000031", "commit-000000000050",
                                          "commit-000000000051"));
}

// As if the version that it was rolled back from had never been.
TEST_F(CodebookVersion, RolledBackARunGoesOnAsWithoutTheOther) {
  Config back = CopyOfTheRun("rolled-back"), never = CopyOfTheRun("never-switched");
  RollBack(CommitsOf("rolled-back"));
  CommitManifest manifest = OpenCommit(Before(), /*digests=*/false)->manifest;
  ++manifest.step;
  const auto fill = [](const fs::path& part) {
    fs::copy(Before(), part, fs::copy_options::recursive);
    fs::remove(part / kManifestFile);
    return absl::OkStatus();
  };
  ASSERT_TRUE(WriteCommit(CommitsOf("never-switched"), manifest, fill).ok());
  for (Config* config : {&back, &never}) {
    config->train.max_steps = kStop + 15;
    RunToTheEnd(*config, /*resume=*/true);
  }
  const auto left = Digest(back.run.dir), right = Digest(never.run.dir);
  EXPECT_EQ(left.at("step"), kStop + 15);
  EXPECT_EQ(left, right);
  EXPECT_NE(left.at("tables").at("align"), Digest(Before()).at("tables").at("align"));

  const auto newest = NewestCommit(CommitsOf("rolled-back"));
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->manifest.codebook,
            (CodebookState{0, kStop + 1, 0, false, /*by_hand_only=*/true}));
  EXPECT_FALSE(fs::exists(newest->folder / kPreviousCodebookFile));
  EXPECT_EQ(*ReadFile(newest->folder / kCodebookFile), *ReadFile(Before() / kCodebookFile));
}

TEST_F(CodebookVersion, IsShownWithWhatBecameOfTheCodesBeforeIt) {
  const std::string first = Look({.what = "codebook", .path = Before().string()});
  EXPECT_THAT(first, AllOf(HasSubstr("codebook version 0, in use since step 0"),
                           Not(HasSubstr("probation"))));
  const std::string next = Look({.what = "codebook", .path = Switched().string()});
  EXPECT_THAT(next,
              AllOf(HasSubstr("codebook version 1, in use since step 31"),
                    HasSubstr("version 0 is kept"), HasSubstr("100.0% of the contents at level 1"),
                    HasSubstr(" 0.0% of the contents at level 2")));
  const auto levels = [](const std::string& text) { return text.substr(text.find("level 2: ")); };
  EXPECT_EQ(levels(next), levels(first)) << "the codes of level 2 are the same";
  EXPECT_NE(next.substr(next.find("  code ")), first.substr(first.find("  code ")));

  CopyOfTheRun("shown");
  RollBack(CommitsOf("shown"));
  const std::string back =
      Look({.what = "codebook", .path = CommitFolder(CommitsOf("shown"), kStop + 1).string()});
  EXPECT_THAT(back,
              AllOf(HasSubstr("version 0, in use again since step 31, rolled back from version 1"),
                    Not(HasSubstr("probation"))));
  EXPECT_EQ(back.substr(back.find("\nlevel 1")), first.substr(first.find("\nlevel 1")));
}

// Digests are of the version in use: the rows beside it are none of what was learned with it.
TEST_F(CodebookVersion, InUseIsWhatDigestsAreOf) {
  CopyOfTheRun("digested");
  RollBack(CommitsOf("digested"));
  const auto before = Digest(Before()), next = Digest(Switched());
  const auto back = Digest(CommitFolder(CommitsOf("digested"), kStop + 1));
  EXPECT_EQ(before.at("codebook_version"), 0);
  EXPECT_EQ(next.at("codebook_version"), 1);
  EXPECT_EQ(back.at("tables"), before.at("tables"));
  for (const auto& [name, table] : before.at("tables").items()) {
    const bool other = name == "align" || name == "content";
    EXPECT_EQ(next.at("tables").at(name).at("digest") != table.at("digest"), other) << name;
  }
}

TEST_F(CodebookVersion, IsSaidWhenCommitsAreCompared) {
  const InspectArguments arguments{
      .what = "diff", .path = Before().string(), .other = Switched().string(), .json = true};
  const auto json = nlohmann::json::parse(Look(arguments));
  EXPECT_EQ(json.at("from").at("codebook_version"), 0);
  EXPECT_EQ(json.at("to").at("codebook_version"), 1);
  EXPECT_EQ(json.at("tables").at("align").at("added"), 16);
  EXPECT_EQ(json.at("tables").at("align").at("changed"), 0);
}

// With prefixes: their keys name the build that made the codes, and both builds lie side by side.
class PrefixBuild : public CodebookVersion {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    Config config = Named("run");
    config.model.prefix_ngrams = true;
    config.codebook.levels = 3;
    config.train.max_steps = kStop;
    RunToTheEnd(config);
    switched_ = new Commit(CommitNextCodebook(config));
  }

  static size_t OfBuild(const fs::path& commit, uint32_t build) {
    size_t n = 0;
    for (const auto& [key, row] : RowsIn(commit).at("prefix")) n += IsOfBuild(key, build);
    return n;
  }
};

TEST_F(PrefixBuild, InUseIsExportedAloneAndScoresAsTheLiveModel) {
  const fs::path full = out_ / "full", chain = out_ / "chain", merged = out_ / "merged";
  const std::string name = BundleName(kStop + 1);
  ASSERT_TRUE(ExportBundle({.from = Switched(), .out = full, .golden = 40}).ok());
  ASSERT_TRUE(ExportBundle({.from = Before(), .out = chain, .golden = 8}).ok());
  const auto delta = ExportBundle({.from = Switched(), .out = chain, .since = kStop, .golden = 40});
  ASSERT_TRUE(delta.ok()) << delta.status();
  for (const fs::path& dir : {full, chain}) {
    const auto verified = VerifyBundle(dir, name);
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ(verified->parity.requests, 40);
    EXPECT_GT(verified->rows_compared, 100);
  }
  ASSERT_TRUE(MergeBundle(chain, name, merged).ok());
  for (const char* table : {"align", "prefix", "aligned"}) {
    const fs::path file = fs::path(name) / TableFileName(table);
    EXPECT_EQ(*ReadFile(merged / file), *ReadFile(full / file)) << table;
  }

  EXPECT_GT(OfBuild(Switched(), 0), 0u);
  const TableChain prefix = *OpenChain(full, name, /*digests=*/false)->Table("prefix");
  size_t n = 0;
  for (TableChain::Cursor cursor(&prefix); cursor.at(); cursor.Next(), ++n) {
    EXPECT_TRUE(IsOfBuild(cursor.at()->key(), 0));
  }
  EXPECT_EQ(n, OfBuild(Switched(), 1));
}

// The codebook is the same, and its alignment rows; those of prefixes are another build's.
TEST_F(PrefixBuild, IsComparedWithTheCommits) {
  CopyOfTheRun("exported");
  const fs::path commits = CommitsOf("exported");
  const auto bundle =
      ExportBundle({.from = CommitFolder(commits, kStop + 1), .out = out_.path(), .golden = 4});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto wrong = RepublishCommit(commits, kStop + 1, [](CommitManifest* manifest) {
    manifest->codebook.builds = manifest->codebook.build = 2;
  });
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  const absl::Status status = VerifyBundle(out_.path(), bundle->version()).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("table prefix, key"));
}

TEST_F(PrefixBuild, InUseIsWhatDigestsAreOf) {
  CopyOfTheRun("digested");
  RollBack(CommitsOf("digested"));
  const auto before = Digest(Before()).at("tables"), next = Digest(Switched()).at("tables");
  const auto back = Digest(CommitFolder(CommitsOf("digested"), kStop + 1)).at("tables");
  EXPECT_EQ(back, before);
  EXPECT_EQ(before.at("prefix").at("rows"), OfBuild(Before(), 0));
  EXPECT_EQ(next.at("prefix").at("rows"), OfBuild(Switched(), 1));
  EXPECT_NE(next.at("prefix").at("digest"), before.at("prefix").at("digest"));
}

}  // namespace
}  // namespace savior
