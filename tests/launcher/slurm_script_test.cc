// The batch script: what is in it, that bash takes it, and which options are refused.

#include "launcher/slurm_script.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/common/temp_folder.h"
#include "tests/launcher/process.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SlurmScriptTest : public ::testing::Test {
 protected:
  std::string Script(const SlurmOptions& options, const Config& config = {}) {
    const auto script = SlurmScript(options, config, "/opt/savior", "/home/me");
    EXPECT_TRUE(script.ok()) << script.status();
    if (!script.ok()) return "";
    std::ofstream(folder_ / "job.sbatch") << *script;
    const Ended checked =
        ChildProcess({"/bin/bash", "-n", (folder_ / "job.sbatch").string()}, folder_.path()).Wait();
    EXPECT_EQ(checked.code, 0) << checked.err << *script;
    EXPECT_THAT(*script, Not(HasSubstr("@NODES@")));
    EXPECT_EQ(script->find(" @"), std::string::npos);
    return *script;
  }

  const TempFolder folder_;
};

TEST_F(SlurmScriptTest, SaysWhatWasAskedFor) {
  Config config;
  config.run.dir = "runs/first run";
  config.cluster.max_restarts = 7;
  const std::string script = Script({.config_path = "my config.toml",
                                     .overrides = {"seed=3", "data.raw=it's here"},
                                     .nodes = 4,
                                     .gpus_per_node = 8,
                                     .tasks_per_node = 9,
                                     .time = "1-02:03:04",
                                     .partition = "gpu"},
                                    config);
  EXPECT_THAT(
      script,
      AllOf(HasSubstr("#SBATCH --job-name=first_run\n"), HasSubstr("#SBATCH --nodes=4\n"),
            HasSubstr("#SBATCH --ntasks-per-node=9\n"), HasSubstr("#SBATCH --gpus-per-node=8\n"),
            HasSubstr("#SBATCH --time=1-02:03:04\n"), HasSubstr("#SBATCH --partition=gpu\n"),
            HasSubstr("SAVIOR=/opt/savior\nCONFIG='/home/me/my config.toml'\n"),
            HasSubstr("RUN='/home/me/runs/first run'\n"), HasSubstr("MAX_RESTARTS=7 "),
            HasSubstr("OVERRIDES=(seed=3 'data.raw=it'\\''s here' \"run.dir=$RUN\")")));
}

TEST_F(SlurmScriptTest, HasWhatOutlivesNodesAndTimeLimits) {
  EXPECT_THAT(
      Script({.config_path = "a.toml", .nodes = 1}),
      AllOf(HasSubstr("#SBATCH --requeue\n"), HasSubstr("#SBATCH --no-kill\n"),
            HasSubstr("#SBATCH --open-mode=append\n"), HasSubstr("#SBATCH --signal=B:USR1@120\n"),
            HasSubstr("srun --mpi=pmix --kill-on-bad-exit=1 --overlap"),
            HasSubstr("scontrol requeue"), Not(HasSubstr("--gpus-per-node")),
            Not(HasSubstr("--time")), Not(HasSubstr("--partition")), Not(HasSubstr("--array")),
            Not(HasSubstr("if_include"))));
}

TEST_F(SlurmScriptTest, SeedsBecomeAnArrayOfRuns) {
  Config config;
  config.run.dir = "/shared/runs/x";
  config.cluster.interface = "ib0";
  EXPECT_THAT(Script({.config_path = "a.toml", .nodes = 1, .seeds = "1,2,30"}, config),
              AllOf(HasSubstr("#SBATCH --array=1,2,30\n"), HasSubstr("%A_%a.out"),
                    HasSubstr("SEED=$SLURM_ARRAY_TASK_ID\nRUN=/shared/runs/x-seed$SEED\n"),
                    HasSubstr("OVERRIDES=(\"run.dir=$RUN\" \"seed=$SEED\")"),
                    HasSubstr("OMPI_MCA_btl_tcp_if_include=ib0")));
}

// The script runs, with commands of Slurm's that do nothing. The time limit comes near just while
// it asks which nodes there are: no rank is started that nobody would tell to stop.
TEST_F(SlurmScriptTest, ASignalBetweenTwoStartsIsNotLost) {
  Config config;
  config.run.dir = (folder_ / "run").string();
  const auto script =
      SlurmScript({.config_path = "a.toml", .nodes = 1}, config, "/opt/savior", folder_.path());
  ASSERT_TRUE(script.ok()) << script.status();
  std::ofstream(folder_ / "job.sbatch") << *script;
  const auto command = [this](const std::string& name, const std::string& what) {
    std::ofstream(folder_ / name) << "#!/bin/bash\n" << what << "\n";
    std::filesystem::permissions(folder_ / name, std::filesystem::perms::owner_all);
  };
  command("sinfo", "kill -USR1 $JOB; echo node1 alloc");
  command("srun", "touch srun-was-called; exit 1");
  command("scontrol", "touch requeued");
  command("sleep", "exit 0");
  const Ended ended = ChildProcess({"/bin/bash", "-c",
                                    "export JOB=$$ PATH=$PWD:$PATH SLURM_JOB_ID=1 "
                                    "SLURM_JOB_NODELIST=node1; exec bash job.sbatch"},
                                   folder_.path())
                          .Wait();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("got USR1"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "srun-was-called"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "requeued")) << ended.out;
}

TEST_F(SlurmScriptTest, BadOptionsAreNamed) {
  const auto refusal = [](const SlurmOptions& options) {
    const auto script = SlurmScript(options, Config(), "/opt/savior", "/");
    EXPECT_TRUE(absl::IsInvalidArgument(script.status())) << script.status();
    return std::string(script.status().message());
  };
  EXPECT_THAT(refusal({.nodes = 0}), HasSubstr("--nodes 0: must be in [1, "));
  EXPECT_THAT(refusal({.nodes = 1, .gpus_per_node = -1}), HasSubstr("--gpus-per-node -1"));
  EXPECT_THAT(refusal({.nodes = 1, .tasks_per_node = 5000}), HasSubstr("--tasks-per-node 5000"));
  for (const char* time : {"4", "4h", "00:60:00", "1:2:3", "x", "04:00:00\n#SBATCH"}) {
    EXPECT_THAT(refusal({.nodes = 1, .time = time}), HasSubstr("--time")) << time;
  }
  EXPECT_THAT(refusal({.nodes = 1, .time = "00:00:00"}), HasSubstr("no time"));
  EXPECT_THAT(refusal({.nodes = 1, .partition = "a b"}), HasSubstr("--partition a b"));
  EXPECT_THAT(refusal({.nodes = 1, .partition = "-x"}), HasSubstr("--partition -x"));
  for (const char* seeds : {"1,,2", "a", "-1", "1,1", "1-3", "99999999"}) {
    EXPECT_THAT(refusal({.nodes = 1, .seeds = seeds}), HasSubstr("--seeds")) << seeds;
  }
  EXPECT_THAT(refusal({.overrides = {"a=b\nc"}, .nodes = 1}), HasSubstr("line break"));
}

TEST_F(SlurmScriptTest, WordsSurviveBash) {
  for (const std::string word : {"plain/a-b_c.d:e", "", "a b", "it's", "$HOME `x` \"y\" \\", "*"}) {
    const Ended echo =
        ChildProcess({"/bin/bash", "-c", "printf %s " + Quoted(word)}, folder_.path()).Wait();
    EXPECT_EQ(echo.out, word);
  }
}

}  // namespace
}  // namespace savior
