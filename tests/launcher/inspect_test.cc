#include "launcher/inspect.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "launcher/commit.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class InspectRun : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    Config config = Trained();
    config.commit.every_steps = 40;
    config.ps.shards = 2;
    RunToTheEnd(config);
  }
  static void TearDownTestSuite() { delete folder_; }
  static Config Trained() { return SmallRun(folder_->path(), "trained"); }
  static fs::path NewestFolder() {
    return ListCommits(fs::path(Trained().run.dir) / "commits").back();
  }

  // What is printed; the error's text if there is one.
  absl::Status Look(InspectArguments arguments) {
    if (arguments.path.empty()) arguments.path = Trained().run.dir;
    std::ostringstream out;
    const absl::Status status = Inspect(arguments, out);
    printed_ = out.str();
    return status;
  }

  static TempFolder* folder_;
  std::string printed_;
};
TempFolder* InspectRun::folder_ = nullptr;

TEST_F(InspectRun, CommitShowsStepTablesAndFiles) {
  const auto commit = NewestCommit(fs::path(Trained().run.dir) / "commits");
  ASSERT_TRUE(Look({.what = "commit"}).ok());
  EXPECT_THAT(
      printed_,
      AllOf(HasSubstr("step " + std::to_string(commit->manifest.step)), HasSubstr("2 shards"),
            HasSubstr("content_vector"), HasSubstr("adagrad"), HasSubstr("dense.safetensors"),
            HasSubstr("shard-1/CURRENT"), HasSubstr(commit->manifest.log_fingerprint)));
  const std::string by_run = printed_;
  ASSERT_TRUE(Look({.what = "commit", .path = commit->folder.string()}).ok());
  EXPECT_EQ(printed_, by_run);
}

TEST_F(InspectRun, VerifyNamesTheDamagedFileOfAnyCommit) {
  ASSERT_TRUE(Look({.what = "commit", .verify = true}).ok());
  EXPECT_THAT(printed_, AllOf(HasSubstr("every digest holds"), Not(HasSubstr("DAMAGED"))));
  const TempFolder copy;
  fs::copy(Trained().run.dir, copy / "run", fs::copy_options::recursive);
  const fs::path oldest = ListCommits(copy / "run" / "commits").front();
  ASSERT_NE(oldest.filename(), NewestFolder().filename());
  std::fstream file(oldest / "dense.safetensors", std::ios::in | std::ios::out);
  file.seekp(100);
  file.put('\x55');
  file.close();
  const absl::Status run =
      Look({.what = "commit", .path = (copy / "run").string(), .verify = true});
  EXPECT_TRUE(absl::IsDataLoss(run)) << run;
  EXPECT_THAT(run.message(), HasSubstr((oldest / "dense.safetensors").string()));
  EXPECT_THAT(printed_, AllOf(HasSubstr("every digest holds"), HasSubstr("DAMAGED")));
  const absl::Status one = Look({.what = "commit", .path = oldest.string(), .verify = true});
  EXPECT_TRUE(absl::IsDataLoss(one)) << one;
}

TEST_F(InspectRun, NeitherRunNorCommitIsNotFound) {
  for (const char* what : {"commit", "table", "codebook"}) {
    const absl::Status missing = Look({.what = what, .path = (*folder_ / "nowhere").string()});
    EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
    const absl::Status other = Look({.what = what, .path = folder_->path().string()});
    EXPECT_TRUE(absl::IsNotFound(other)) << other;
    EXPECT_THAT(other.message(), HasSubstr("neither a run folder"));
  }
}

TEST_F(InspectRun, TablesAreCounted) {
  const Learned learned = LearnedBy(Trained());
  ASSERT_TRUE(Look({.what = "table"}).ok());
  std::istringstream lines(printed_);
  std::string line, name, kind;
  std::getline(lines, line);
  for (const auto& table : ModelTables(Trained())) {
    uint64_t dim = 0, rows = 0;
    ASSERT_TRUE(std::getline(lines, line));
    std::istringstream(line) >> name >> kind >> dim >> rows;
    EXPECT_EQ(name, table.name);
    EXPECT_EQ(dim, table.dim);
    EXPECT_EQ(rows, learned.tables.at(name).size()) << name;
  }
  ASSERT_TRUE(Look({.what = "table", .table = "user"}).ok());
  EXPECT_THAT(printed_, AllOf(HasSubstr("200 rows of 8 weights and 8 floats of optimizer state"),
                              HasSubstr("most updated")));
}

TEST_F(InspectRun, ARowIsShownByItsKey) {
  const Learned learned = LearnedBy(Trained());
  for (const char* table : {"item", "align", "content"}) {
    const auto& [key, row] = *learned.tables.at(table).rbegin();
    ASSERT_TRUE(Look({.what = "table", .table = table, .key = key}).ok()) << table;
    EXPECT_THAT(printed_, AllOf(HasSubstr("key " + std::to_string(key)),
                                HasSubstr(std::to_string(row.updates) + " updates"),
                                HasSubstr("last at step " + std::to_string(row.last_step)),
                                HasSubstr(fmt::format("{:.5g}", row.weights[0])),
                                HasSubstr(fmt::format("{:.5g}", row.weights.back()))));
  }
  const absl::Status missing = Look({.what = "table", .table = "item", .key = 3});
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(missing.message(), HasSubstr("no row with key 3"));
}

TEST_F(InspectRun, AnUnknownTableNamesTheNearest) {
  const absl::Status status = Look({.what = "table", .table = "contentvector"});
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("nearest is \"content_vector\""));
  EXPECT_TRUE(absl::IsInvalidArgument(Look({.what = "table", .key = 1})));
}

TEST_F(InspectRun, CodebookShowsUseAndExampleTitles) {
  ASSERT_TRUE(Look({.what = "codebook", .top = 2}).ok());
  EXPECT_THAT(printed_, AllOf(HasSubstr("300 contents, 2 levels of 8 codes"),
                              HasSubstr("level 1: perplexity"), HasSubstr("level 2: perplexity"),
                              HasSubstr("of cluster")));
  std::istringstream lines(printed_);
  int64_t codes = 0;
  for (std::string line; std::getline(lines, line);) codes += line.starts_with("  code ");
  EXPECT_EQ(codes, 4);
}

TEST_F(InspectRun, CodebookWithoutTheLogShowsItemIds) {
  const fs::path raw = *folder_ / "raw";
  fs::rename(raw, *folder_ / "raw-moved");
  const absl::Status status = Look({.what = "codebook", .top = 1});
  fs::rename(*folder_ / "raw-moved", raw);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(printed_, AllOf(HasSubstr("no titles, item ids instead"), HasSubstr("item 1"),
                              Not(HasSubstr("of cluster"))));
}

TEST_F(InspectRun, ACommitWithoutCodesSaysWhy) {
  Config config = SmallRun(folder_->path(), "base");
  config.model.arm = "base";
  config.train.max_steps = 2;
  RunToTheEnd(config);
  const absl::Status status = Look({.what = "codebook", .path = config.run.dir});
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("model.arm = \"base\" uses no codes"));
}

TEST_F(InspectRun, NothingIsLeftBehindOrChanged) {
  // A folder for temporary files of its own: other tests run beside this one.
  const fs::path temporary = *folder_ / "temporary";
  fs::create_directory(temporary);
  ASSERT_EQ(::setenv("TMPDIR", temporary.c_str(), 1), 0);
  const absl::Status table = Look({.what = "table", .table = "user"});
  const absl::Status codebook = Look({.what = "codebook"});
  ASSERT_EQ(::unsetenv("TMPDIR"), 0);
  EXPECT_TRUE(table.ok()) << table;
  EXPECT_TRUE(codebook.ok()) << codebook;
  EXPECT_TRUE(fs::is_empty(temporary));
  EXPECT_TRUE(Look({.what = "commit", .verify = true}).ok());
}

// Against both commits read whole.
TEST_F(InspectRun, DiffCountsRowsAddedRemovedAndChanged) {
  const std::vector<fs::path> commits = ListCommits(fs::path(Trained().run.dir) / "commits");
  ASSERT_GE(commits.size(), 2u);
  const auto rows_of = [](const fs::path& commit) {
    const auto inspected = InspectedCommit::Open(commit);
    EXPECT_TRUE(inspected.ok()) << inspected.status();
    return inspected.ok() ? RowsOf(**inspected) : Tables();
  };
  const auto a = rows_of(commits[0]), b = rows_of(commits[1]);
  for (const bool backwards : {false, true}) {
    const auto& from = backwards ? b : a;
    const auto& to = backwards ? a : b;
    ASSERT_TRUE(Look({.what = "diff",
                      .path = commits[backwards ? 1 : 0].string(),
                      .other = commits[backwards ? 0 : 1].string(),
                      .json = true})
                    .ok());
    const auto json = nlohmann::json::parse(printed_);
    uint64_t differences = 0;
    for (const auto& [table, rows] : from) {
      uint64_t added = 0, removed = 0, changed = 0, same = 0;
      for (const auto& [key, row] : rows) {
        const auto other = to.at(table).find(key);
        other == to.at(table).end() ? ++removed : other->second == row ? ++same : ++changed;
      }
      for (const auto& [key, row] : to.at(table)) added += !rows.contains(key);
      const auto& found = json.at("tables").at(table);
      EXPECT_EQ(found.at("added"), added) << table;
      EXPECT_EQ(found.at("removed"), removed) << table;
      EXPECT_EQ(found.at("changed"), changed) << table;
      EXPECT_EQ(found.at("same"), same) << table;
      differences += added + removed;
    }
    EXPECT_GT(differences, 0u);
    EXPECT_EQ(json.at("from").at("step"),
              OpenCommit(commits[backwards ? 1 : 0], false)->manifest.step);
  }
  ASSERT_TRUE(Look({.what = "diff", .other = Trained().run.dir}).ok());  // with itself
  EXPECT_THAT(printed_, AllOf(HasSubstr("added"), HasSubstr("content_vector"),
                              testing::ContainsRegex("all +0 +0 +0 +[1-9]")));
  EXPECT_TRUE(absl::IsNotFound(Look({.what = "diff", .other = "/nowhere"})));
}

// Against the commit read whole; every table of another commit that has changed has another digest.
TEST_F(InspectRun, DigestCountsRowsAndUpdatesAndTellsCommitsApart) {
  const auto digest_of = [this](const fs::path& path) {
    EXPECT_TRUE(Look({.what = "digest", .path = path.string(), .json = true}).ok());
    return nlohmann::json::parse(printed_);
  };
  const auto newest = digest_of(Trained().run.dir);
  EXPECT_EQ(newest, digest_of(Trained().run.dir));
  const Learned learned = LearnedBy(Trained());
  EXPECT_EQ(newest.at("step"), learned.step);
  EXPECT_EQ(newest.at("dense"), DigestBytes(learned.dense));
  for (const auto& [name, rows] : learned.tables) {
    uint64_t updates = 0;
    for (const auto& [key, row] : rows) updates += row.updates;
    EXPECT_EQ(newest.at("tables").at(name).at("rows"), rows.size()) << name;
    EXPECT_EQ(newest.at("tables").at(name).at("updates"), updates) << name;
  }
  const auto former = digest_of(ListCommits(fs::path(Trained().run.dir) / "commits").front());
  EXPECT_NE(former.at("dense"), newest.at("dense"));
  EXPECT_NE(former.at("tables").at("item"), newest.at("tables").at("item"));
  EXPECT_EQ(former.at("tables").at("content"), newest.at("tables").at("content")) << "frozen";
  ASSERT_TRUE(Look({.what = "digest"}).ok());
  EXPECT_THAT(printed_,
              AllOf(HasSubstr(newest.at("dense").get<std::string>()),
                    HasSubstr(newest.at("tables").at("item").at("digest").get<std::string>())));
}

}  // namespace
}  // namespace savior
