#include "launcher/slurm_script.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <regex>
#include <set>

#include "common/files.h"
#include "launcher/exit_code.h"
#include "launcher/slurm_job.h"
#include "launcher/supervisor.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostNodes = 100'000;
constexpr int64_t kLargestArrayIndex = 4'000'000;  // Slurm's own bound on MaxArraySize

absl::Status Wrong(const std::string& option, const std::string& value, const std::string& why) {
  return absl::InvalidArgumentError(fmt::format("{} {}: {}", option, value, why));
}

absl::Status CheckRange(const std::string& option, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return absl::OkStatus();
  return Wrong(option, fmt::format("{}", value), fmt::format("must be in [{}, {}]", low, high));
}

absl::Status CheckTime(const std::string& time) {
  static const std::regex kTime(R"((\d{1,3}-)?\d{1,3}:[0-5]\d:[0-5]\d)");
  if (!std::regex_match(time, kTime)) {
    return Wrong("--time", time, "must be HH:MM:SS or days-HH:MM:SS");
  }
  if (time.find_first_of("123456789") == time.npos)
    return Wrong("--time", time, "is no time at all");
  return absl::OkStatus();
}

absl::Status CheckPartition(const std::string& partition) {
  static const std::regex kPartition(R"([A-Za-z0-9][A-Za-z0-9_.,-]*)");
  if (std::regex_match(partition, kPartition)) return absl::OkStatus();
  return Wrong("--partition", partition, "is not a name that a partition can have");
}

absl::Status CheckSeeds(const std::string& seeds) {
  std::set<int64_t> seen;
  const std::vector<std::string> words = absl::StrSplit(seeds, ',');
  for (const std::string& word : words) {
    int64_t seed = 0;
    if (!absl::SimpleAtoi(word, &seed) || seed < 0 || seed > kLargestArrayIndex) {
      return Wrong("--seeds", seeds,
                   fmt::format("\"{}\" is no whole number in [0, {}]", word, kLargestArrayIndex));
    }
    if (!seen.insert(seed).second) {
      return Wrong("--seeds", seeds, fmt::format("{} is there twice", seed));
    }
  }
  return absl::OkStatus();
}

absl::Status Check(const SlurmOptions& o) {
  SAVIOR_RETURN_IF_ERROR(CheckRange("--nodes", o.nodes, 1, kMostNodes));
  SAVIOR_RETURN_IF_ERROR(CheckRange("--gpus-per-node", o.gpus_per_node, 0, 64));
  SAVIOR_RETURN_IF_ERROR(CheckRange("--tasks-per-node", o.tasks_per_node, 0, 4096));
  if (!o.time.empty()) SAVIOR_RETURN_IF_ERROR(CheckTime(o.time));
  if (!o.partition.empty()) SAVIOR_RETURN_IF_ERROR(CheckPartition(o.partition));
  if (!o.seeds.empty()) SAVIOR_RETURN_IF_ERROR(CheckSeeds(o.seeds));
  // #SBATCH lines end at the newline, whatever quotes say.
  for (const std::string& text : o.overrides) {
    if (text.find('\n') != text.npos) return Wrong("key=value", text, "has a line break");
  }
  return absl::OkStatus();
}

// The #SBATCH lines that depend on options given.
std::string OptionalLines(const SlurmOptions& o) {
  std::string lines;
  const auto add = [&lines](const char* option, const std::string& value) {
    if (!value.empty()) lines += fmt::format("#SBATCH --{}={}\n", option, value);
  };
  add("gpus-per-node", o.gpus_per_node > 0 ? fmt::format("{}", o.gpus_per_node) : "");
  add("time", o.time);
  add("partition", o.partition);
  if (!o.seeds.empty()) lines += "# One task per seed, each with a run folder of its own.\n";
  add("array", o.seeds);
  return lines;
}

// A job's name is the run folder's, as far as Slurm takes it.
std::string JobName(const Config& config) {
  std::string name = fs::path(config.run.dir).lexically_normal().filename().string();
  std::ranges::replace_if(
      name, [](char c) { return !absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-'; },
      '_');
  return name.empty() ? "savior" : name;
}

}  // namespace

std::string Quoted(const std::string& word) {
  const auto plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_-./:=,+@%").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::ranges::all_of(word, plain)) return word;
  return fmt::format("'{}'", absl::StrReplaceAll(word, {{"'", "'\\''"}}));
}

absl::StatusOr<std::string> SlurmScript(const SlurmOptions& options, const Config& config,
                                        const std::string& program, const std::string& folder) {
  SAVIOR_RETURN_IF_ERROR(Check(options));
  const int64_t tasks = options.tasks_per_node > 0 ? options.tasks_per_node
                                                   : DefaultRanks(config.cluster, options.nodes);
  const std::string run =
      (fs::path(folder) / config.run.dir).lexically_normal().string();  // absolute stays absolute
  const bool array = !options.seeds.empty();
  std::string overrides;
  for (const std::string& entry : options.overrides) overrides += Quoted(entry) + " ";
  overrides += array ? "\"run.dir=$RUN\" \"seed=$SEED\"" : "\"run.dir=$RUN\"";
  const std::string run_line =
      array ? fmt::format("SEED=$SLURM_ARRAY_TASK_ID\nRUN={}-seed$SEED\n", Quoted(run))
            : fmt::format("RUN={}\n", Quoted(run));
  const std::string& interface = config.cluster.interface;
  const std::string interface_line =
      interface.empty()
          ? ""
          : fmt::format("export OMPI_MCA_oob_tcp_if_include={0} OMPI_MCA_btl_tcp_if_include={0}\n",
                        Quoted(interface));
  const int64_t wait_s = std::clamp<int64_t>(std::llround(config.cluster.restart_after_s), 1, 60);
  return absl::StrReplaceAll(
      kSlurmJob, {{"@JOB_NAME@", JobName(config)},
                  {"@NODES@", fmt::format("{}", options.nodes)},
                  {"@TASKS@", fmt::format("{}", tasks)},
                  {"@OPTIONAL@", OptionalLines(options)},
                  {"@OUTPUT@", array ? "%x-%A_%a.out" : "%x-%j.out"},
                  {"@PROGRAM@", Quoted(program)},
                  {"@CONFIG@", Quoted((fs::path(folder) / options.config_path).string())},
                  {"@RUN@", run_line},
                  {"@OVERRIDES@", overrides},
                  {"@MAX_RESTARTS@", fmt::format("{}", config.cluster.max_restarts)},
                  {"@FOLDER@", Quoted(folder)},
                  {"@INTERFACE@", interface_line},
                  {"@WAIT@", fmt::format("{}", wait_s)},
                  {"@BAD_INPUT@", fmt::format("{}", kExitBadInput)}});
}

absl::Status WriteSlurmScript(const SlurmOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const Config config, LoadConfig(options.config_path, options.overrides));
  SAVIOR_ASSIGN_OR_RETURN(const std::string script,
                          SlurmScript(options, config, fs::read_symlink("/proc/self/exe").string(),
                                      fs::current_path().string()));
  if (options.out.empty()) {
    std::cout << script;
    return absl::OkStatus();
  }
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(options.out, script));
  std::cerr << "written; now: sbatch " << options.out << "\n";
  return absl::OkStatus();
}

}  // namespace savior
