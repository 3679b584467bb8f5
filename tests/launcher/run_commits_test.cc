// What all commits of a run have in common, until it is something else.
#include "launcher/run_commits.h"

#include <gtest/gtest.h>

#include "common/failpoint.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/committing_store.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

TensorFile One(float value) {
  TensorFile file;
  file.tensors["w"] = {.shape = {1}, .data = {value}};
  return file;
}

class ConstantFiles : public testing::Test {
 protected:
  // The folder of a new commit.
  fs::path Commit() {
    EXPECT_TRUE(store_.Push().ok());
    const absl::Status status = store_.Commit();
    EXPECT_TRUE(status.ok()) << status;
    const fs::path folder = CommitFolder(store_.commits(), store_.step() - 3);
    EXPECT_TRUE(OpenCommit(folder, /*digests=*/true).ok());
    return folder;
  }
  static float ValueOf(const fs::path& commit, const char* name) {
    const auto file = ReadTensorFile(commit / name);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? file->tensors.at("w").data[0] : 0.0f;
  }

  const TempFolder folder_;
  CommittingStore store_{folder_.path(), folder_ / "live", 7};
};

TEST_F(ConstantFiles, MayBeBytes) {
  const std::string bytes("\0\n bytes", 8);
  store_.run_commits().SetConstant(kLogProofFile, bytes);
  const fs::path first = Commit(), second = Commit();
  EXPECT_EQ(*ReadFile(second / kLogProofFile), bytes);
  EXPECT_TRUE(fs::equivalent(first / kLogProofFile, second / kLogProofFile));
}

TEST_F(ConstantFiles, AreLinksOfTheFormerCommitsUntilTheyChange) {
  RunCommits& commits = store_.run_commits();
  commits.SetConstant(kCodebookFile, One(1));
  const fs::path first = Commit(), second = Commit();
  EXPECT_TRUE(fs::equivalent(first / kCodebookFile, second / kCodebookFile));
  commits.SetConstant(kCodebookFile, One(2));
  commits.SetConstant(kPreviousCodebookFile, One(1));
  const fs::path third = Commit(), fourth = Commit();
  EXPECT_FALSE(fs::equivalent(second / kCodebookFile, third / kCodebookFile));
  EXPECT_EQ(ValueOf(second, kCodebookFile), 1);
  EXPECT_EQ(ValueOf(third, kCodebookFile), 2);
  EXPECT_EQ(ValueOf(third, kPreviousCodebookFile), 1);
  EXPECT_TRUE(fs::equivalent(second / kEncoderFile, third / kEncoderFile));
  for (const char* name : {kCodebookFile, kPreviousCodebookFile}) {
    EXPECT_TRUE(fs::equivalent(third / name, fourth / name)) << name;
  }
  commits.DropConstant(kPreviousCodebookFile);
  commits.DropConstant("was-never-there");
  const fs::path fifth = Commit();
  EXPECT_FALSE(fs::exists(fifth / kPreviousCodebookFile));
  EXPECT_TRUE(fs::equivalent(fourth / kCodebookFile, fifth / kCodebookFile));
}

TEST_F(ConstantFiles, ThatChangeWhileACommitIsUnderWayAreInTheNext) {
  RunCommits& commits = store_.run_commits();
  commits.SetConstant(kCodebookFile, One(1));
  ASSERT_TRUE(store_.Push().ok());
  ASSERT_TRUE(store_.Begin().ok());
  commits.SetConstant(kCodebookFile, One(2));
  const auto outcome = store_.Take(/*wait=*/true);
  ASSERT_TRUE(outcome && outcome->status.ok()) << outcome->status;
  EXPECT_EQ(ValueOf(CommitFolder(store_.commits(), 1), kCodebookFile), 1);
  EXPECT_EQ(ValueOf(Commit(), kCodebookFile), 2);
}

// What a commit that failed has not written is written by the next.
TEST_F(ConstantFiles, ThatAFailedCommitDidNotGetAreInTheNext) {
  if (!FailpointsCompiledIn()) GTEST_SKIP() << "needs -DSAVIOR_FAILPOINTS=ON";
  RunCommits& commits = store_.run_commits();
  commits.SetConstant(kCodebookFile, One(1));
  ASSERT_EQ(ValueOf(Commit(), kCodebookFile), 1);
  commits.SetConstant(kCodebookFile, One(2));
  ASSERT_TRUE(store_.Push().ok());
  ASSERT_TRUE(ArmFailpoints("commit.before_publish=error").ok());
  EXPECT_FALSE(store_.Commit(0).ok());
  EXPECT_EQ(ValueOf(Commit(), kCodebookFile), 2);
}

}  // namespace
}  // namespace savior
