// `savior`: the command line. Every command is a few lines over the room that does the work.

#include <fmt/format.h>
#include <glog/logging.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/failpoint.h"
#include "common/process.h"
#include "launcher/added_items.h"
#include "launcher/cluster_run.h"
#include "launcher/exit_code.h"
#include "launcher/export_command.h"
#include "launcher/generate_command.h"
#include "launcher/inspect.h"
#include "launcher/launch_command.h"
#include "launcher/orphan.h"
#include "launcher/refresh_command.h"
#include "launcher/report_command.h"
#include "launcher/run_commands.h"
#include "launcher/serve_command.h"
#include "worker/data/generate.h"
#include "worker/data/prepare.h"
#include "worker/mpi_world.h"

namespace savior {
namespace {

std::atomic<bool> stop_requested = false;
std::atomic<bool> training_began = false;

// First signal: stop after the step. Second: die at once, as one expects; but SIGUSR1 only ever
// asks: batch scripts and launchers may repeat it while the commit is being written.
void OnSignal(int signal) {
  stop_requested = true;
  if (signal != SIGUSR1) std::signal(signal, SIG_DFL);
}

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  std::cerr << "savior: " << std::string(status.message()) << "\n";
  const int code = ExitCodeOf(status, training_began);
  // To mpirun and srun, whatever is not 0 is a failure; that it stopped in order is none.
  return code == kExitStopped && MpiWorld::LaunchedByMpi() ? kExitOk : code;
}

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string role;
  bool resume = false, dry_run = false, check_encoder = false, print_page = false;
};

absl::Status RunTrain(const TrainArguments& arguments) {
  if (arguments.print_page) {
    std::cout << ConfigurationPage();
    return absl::OkStatus();
  }
  SAVIOR_ASSIGN_OR_RETURN(const Config config, LoadConfig(arguments.config, arguments.overrides));
  const bool many = MpiWorld::LaunchedByMpi();
  if (many) DieWithParent();
  if (many && (arguments.dry_run || arguments.check_encoder)) {
    return absl::InvalidArgumentError(
        "--dry-run and --check-encoder are for one process: run them without mpirun or srun");
  }
  if (arguments.dry_run) return DryRun(config, std::cout);
  RunOptions options;
  options.resume = arguments.resume;
  options.stop = &stop_requested;
  options.before_first_step = [] {
    std::signal(SIGINT, OnSignal);
    std::signal(SIGTERM, OnSignal);
    if (MpiWorld::LaunchedByMpi()) std::signal(SIGUSR1, OnSignal);
    training_began = true;
  };
  if (arguments.check_encoder) return CheckEncoder(config, options, std::cout);
  if (many) {
    return TrainInCluster(config, arguments.role, options, std::cout).status();
  }
  if (!arguments.role.empty()) {
    return absl::InvalidArgumentError(
        "--role: a process alone is server and worker; start several by mpirun, srun or savior "
        "launch");
  }
  return Train(config, options, std::cout).status();
}

void AddTrain(CLI::App& app, TrainArguments& arguments) {
  CLI::App* train = app.add_subcommand("train", "Trains, evaluates, commits: the main job");
  train->footer(
      "Examples:\n"
      "  savior train configs/complete_journey.toml\n"
      "  savior train configs/complete_journey.toml model.arm=base seed=2 run.dir=runs/base-2\n"
      "  savior train configs/complete_journey.toml --resume\n"
      "  mpirun -n 4 savior train configs/complete_journey.toml    (docs/cluster.md)\n"
      "Every key: docs/configuration.md");
  train->add_option("config", arguments.config, "TOML file (empty: all defaults)");
  train->add_option("overrides", arguments.overrides, "key=value ..., stronger than the file");
  train->add_flag("--resume", arguments.resume,
                  "Go on from the run folder's newest commit, if there is one");
  train->add_option("--role", arguments.role,
                    "Under mpirun or srun: server, worker or both, instead of what cluster.* says");
  train->add_flag("--dry-run", arguments.dry_run,
                  "Check configuration and data, print sizes, train nothing");
  train->add_flag("--check-encoder", arguments.check_encoder,
                  "Compare the encoders on the last 14 training days and say which to use");
  train->add_flag("--print-configuration-page", arguments.print_page,
                  "Print docs/configuration.md and exit");
}

struct EvaluateArguments {
  std::string run, commit;
  std::vector<std::string> overrides;
};

void AddEvaluate(CLI::App& app, EvaluateArguments& arguments) {
  CLI::App* evaluate = app.add_subcommand("evaluate", "Scores a commit without training");
  evaluate->footer(
      "Examples:\n"
      "  savior evaluate runs/quickstart\n"
      "  savior evaluate runs/quickstart data.eval_from=2017-11-01 data.eval_until=2017-12-01");
  evaluate->add_option("run", arguments.run, "Run folder; its newest whole commit is scored")
      ->required();
  evaluate->add_option("overrides", arguments.overrides,
                       "key=value ... on top of the run's configuration");
  evaluate->add_option("--commit", arguments.commit, "This commit folder instead of the newest");
}

void AddPrepare(CLI::App& app, PrepareOptions& options, int64_t& memory_mb) {
  CLI::App* prepare =
      app.add_subcommand("prepare", "Raw Parquet -> training log (train does it on first use)");
  prepare->footer(
      "Example:\n  savior prepare my_data --out my_log\nThe raw schema: docs/datasets.md");
  prepare
      ->add_option("raw", options.raw, "Folder with impressions, behaviours, items, item_vectors")
      ->required();
  prepare->add_option("--out", options.out, "The training log's folder")->required();
  prepare->add_option("--memory-mb", memory_mb, "RAM in MiB for sorting")
      ->check(CLI::Range(16, 1 << 20));
}

void AddAddItems(CLI::App& app, AddItemsArguments& arguments) {
  CLI::App* add = app.add_subcommand(
      "add-items", "Items that no training data has yet: rankable in the next bundle");
  add->footer(
      "Example:\n"
      "  savior add-items runs/mine new_items    new_items/items.parquet and item_vectors.parquet, "
      "as raw\n"
      "What becomes of them: docs/serving.md");
  add->add_option("run", arguments.run, "Run folder; its job may go on meanwhile")->required();
  add->add_option("items", arguments.items,
                  "Folder with items and item_vectors, columns as the run's (docs/datasets.md)")
      ->required();
}

absl::Status RunPrepare(const PrepareOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const PrepareSummary s, Prepare(options));
  std::cout << fmt::format(
      "{} impressions in {} requests (click rate {:.4f}, conversion rate {:.4f}), {} behaviours of "
      "{} users, {} items "
      "({} without a vector), {} distinct contents -> {}\n",
      s.impressions, s.requests, s.click_rate, s.conversion_rate, s.behaviours, s.users, s.items,
      s.items_without_vector, s.contents, options.out.string());
  return absl::OkStatus();
}

int ListFailpoints() {
  if (!FailpointsCompiledIn()) {
    return Report(absl::FailedPreconditionError(
        "--list-failpoints: this build has none; build with -DSAVIOR_FAILPOINTS=ON"));
  }
  for (const FailpointInfo& point : kFailpoints) {
    std::cout << fmt::format("{:<26} {}\n", point.name, point.what);
  }
  return kExitOk;
}

int Main(int argc, char** argv) {
  CLI::App app{"SaviorRec: a click ranker for new and long-tail items, trained at scale"};
  app.set_version_flag("--version", std::string("savior " SAVIOR_VERSION));
  bool list_failpoints = false;
  app.add_flag("--list-failpoints", list_failpoints,
               "List the instants at which tests break this program, and exit");
  app.require_subcommand(0, 1);  // with --list-failpoints: none
  TrainArguments train;
  LaunchOptions launch;
  SlurmOptions slurm;
  EvaluateArguments evaluate;
  PrepareOptions prepare;
  int64_t memory_mb = 1024;
  GenerateOptions generate;
  InspectArguments inspect;
  ExportArguments export_bundle;
  ServeArguments serve;
  RefreshArguments refresh;
  ReportArguments report;
  AddItemsArguments add_items;
  AddPrepare(app, prepare, memory_mb);
  AddTrain(app, train);
  AddLaunch(app, launch);
  AddSlurm(app, slurm);
  AddEvaluate(app, evaluate);
  AddRefresh(app, refresh);
  AddReport(app, report);
  AddAddItems(app, add_items);
  AddExport(app, export_bundle);
  AddServe(app, serve);
  AddInspect(app, inspect);
  AddGenerate(app, generate);
  try {
    app.parse(argc, argv);
    if (!list_failpoints && app.get_subcommands().empty()) {
      throw CLI::RequiredError("A subcommand");
    }
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitBadInput;  // --help and --version end here too
  }

  if (const absl::Status armed = CheckFailpoints(); !armed.ok()) return Report(armed);
  if (list_failpoints) return ListFailpoints();
  if (app.got_subcommand("train")) return Report(RunTrain(train));
  if (app.got_subcommand("launch")) return RunLaunch(launch);
  if (app.got_subcommand("slurm")) return Report(WriteSlurmScript(slurm));
  if (app.got_subcommand("evaluate")) {
    return Report(
        EvaluateRun(evaluate.run, evaluate.commit, evaluate.overrides, std::cout).status());
  }
  if (app.got_subcommand("refresh")) return Report(RefreshCodebook(refresh, std::cout));
  if (app.got_subcommand("report")) return Report(WriteReport(report, std::cout));
  if (app.got_subcommand("add-items")) return Report(AddItems(add_items, std::cout));
  if (app.got_subcommand("export")) return Report(RunExport(export_bundle, std::cout));
  if (app.got_subcommand("serve")) {
    std::signal(SIGINT, OnSignal);
    std::signal(SIGTERM, OnSignal);
    return Report(RunServe(serve, stop_requested, std::cout));
  }
  if (app.got_subcommand("inspect")) return Report(Inspect(inspect, std::cout));
  if (app.got_subcommand("generate")) return Report(Generate(generate).status());
  prepare.memory_bytes = memory_mb << 20;
  return Report(RunPrepare(prepare));
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  savior::KeepFreedMemory();
  try {
    return savior::Main(argc, argv);
  } catch (const std::exception& e) {
    // LibTorch, Arrow and the standard library may throw what nobody expected.
    std::cerr << "savior: internal error: " << e.what() << "\n";
    return savior::kExitInternal;
  }
}
