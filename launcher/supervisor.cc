#include "launcher/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include "common/files.h"
#include "launcher/child.h"
#include "launcher/commit.h"
#include "launcher/control.h"
#include "launcher/exit_code.h"
#include "launcher/job_command.h"
#include "launcher/launch_log.h"
#include "launcher/network.h"
#include "launcher/rank_lines.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

// ssh to a machine with a lot to do takes seconds, and leaving one out that lives costs a run more.
constexpr seconds kProbeTimeout{15};
constexpr seconds kKillAfter{5};  // between SIGTERM and SIGKILL to mpirun
// From the run's failure to mpirun's end: where several machines cannot be reached it waits for
// their daemons as long as TCP does, with no rank left.
constexpr seconds kEndAfterFailure{20};

// Step of the newest commit, by its name: the trainer checks what is in it. -1: none.
int64_t NewestStep(const fs::path& run) {
  const std::vector<fs::path> commits = ListCommits(run / "commits");
  if (commits.empty()) return -1;
  const std::string name = commits.back().filename().string();
  return std::atoll(name.c_str() + name.rfind('-') + 1);
}

// Signals become readable events, so that nothing happens between two instructions.
class SignalQueue {
 public:
  SignalQueue() {
    ::sigemptyset(&set_);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD}) ::sigaddset(&set_, signal);
    ::sigprocmask(SIG_BLOCK, &set_, &former_);
    std::signal(SIGPIPE, SIG_IGN);
    fd_ = ::signalfd(-1, &set_, SFD_NONBLOCK | SFD_CLOEXEC);
  }
  ~SignalQueue() {
    ::close(fd_);
    ::sigprocmask(SIG_SETMASK, &former_, nullptr);
  }
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  int fd() const { return fd_; }
  std::optional<int> Next() const {
    signalfd_siginfo info{};
    if (::read(fd_, &info, sizeof(info)) != sizeof(info)) return {};
    return static_cast<int>(info.ssi_signo);
  }

 private:
  sigset_t set_{}, former_{};
  int fd_ = -1;
};

// One run of mpirun or srun.
struct Attempt {
  std::unique_ptr<Child> child;
  std::unique_ptr<RankLines> out, err;
  std::vector<Host> hosts;
  fs::file_time_type former_result;                     // result.json's time before it
  bool incomplete = false;                              // started without some of its hosts
  bool bad_input = false;                               // srun said what no restart mends
  std::optional<SteadyClock::time_point> kill_at = {};  // when it should have ended by then

  // A line that says that the run has failed.
  void NoteFailure(std::string_view line) {
    for (const char* failure : {kRunHasFailed, "lost communication with a remote daemon"}) {
      if (!kill_at && line.find(failure) != line.npos) {
        kill_at = SteadyClock::now() + kEndAfterFailure;
      }
    }
  }
};

class Supervisor {
 public:
  Supervisor(const Config& config, const LaunchOptions& options, std::vector<Host> hosts,
             int64_t ranks)
      : config_(config),
        options_(options),
        program_(fs::read_symlink("/proc/self/exe").string()),
        run_(config.run.dir),
        slurm_(hosts.empty() && std::getenv("SLURM_JOB_ID") != nullptr),
        hosts_(std::move(hosts)),
        ranks_(ranks),
        log_(run_ / "launch.log"),
        policy_({.in_a_row = config.cluster.max_restarts, .first_wait = FirstWait()},
                NewestStep(run_), SteadyClock::now()) {}

  LaunchEnd Run();

 private:
  SteadyClock::duration FirstWait() const {
    return std::chrono::duration_cast<SteadyClock::duration>(
        std::chrono::duration<double>(config_.cluster.restart_after_s));
  }
  fs::path result() const { return run_ / "result.json"; }
  fs::file_time_type ResultTime() const {
    std::error_code missing;
    const auto time = fs::last_write_time(result(), missing);
    return missing ? fs::file_time_type::min() : time;
  }

  Action Wait();
  void Start();
  absl::Status TryStart();
  absl::StatusOr<Survivors> FindHosts() const;
  Job MakeJob(const std::vector<Host>& hosts) const;
  void ReadOutput();
  Action OnSignals();
  Action OnAttemptEnd(int code);
  Action OnFailedStart(const absl::Status& status);
  Action Report(const AttemptEnd& end);
  void Kill();
  void SayEnd(Outcome outcome);

  const Config config_;
  const LaunchOptions options_;
  const std::string program_;  // as it was at the start: a new build may take its place
  const fs::path run_;
  const bool slurm_;
  const std::vector<Host> hosts_;  // asked for; the living ones are in the attempt
  const int64_t ranks_;            // of this machine, or per node of the allocation
  const SignalQueue signals_;
  LaunchLog log_;
  RestartPolicy policy_;
  std::unique_ptr<Attempt> attempt_;
  absl::Status start_failure_;  // of the attempt that is reported next
};

LaunchEnd Supervisor::Run() {
  while (true) {
    Action action = policy_.At(SteadyClock::now());
    if (action.kind == Action::Kind::kNone) action = Wait();
    switch (action.kind) {
      case Action::Kind::kNone:
        break;
      case Action::Kind::kStart:
        Start();
        break;
      case Action::Kind::kAskToStop:
        log_.Say("asking all ranks to stop after the step and to commit; again to kill them");
        attempt_->child->Signal(SIGUSR1);
        break;
      case Action::Kind::kKill:
        log_.Say("killing all ranks");
        Kill();
        break;
      case Action::Kind::kEnd:
        SayEnd(action.outcome);
        return {action.outcome, policy_.restarts()};
    }
  }
}

// Until something happens: output, a signal, an end, or the time for the next start.
Action Supervisor::Wait() {
  if (!start_failure_.ok()) return OnFailedStart(std::exchange(start_failure_, absl::OkStatus()));
  std::optional<SteadyClock::time_point> until;
  if (policy_.waiting()) until = policy_.start_at();
  if (attempt_ && attempt_->kill_at) until = attempt_->kill_at;
  milliseconds timeout{1000};  // the end of a child whose SIGCHLD came earlier
  if (until) {
    const auto left = std::chrono::ceil<milliseconds>(*until - SteadyClock::now());
    timeout = std::clamp(left, milliseconds(0), timeout);
  }
  std::array<pollfd, 3> fds = {pollfd{signals_.fd(), POLLIN, 0},
                               pollfd{attempt_ ? attempt_->child->out() : -1, POLLIN, 0},
                               pollfd{attempt_ ? attempt_->child->err() : -1, POLLIN, 0}};
  ::poll(fds.data(), fds.size(), static_cast<int>(timeout.count()));
  if (attempt_) {
    const std::optional<int> code = attempt_->child->Ended();
    ReadOutput();  // after the end, so that nothing is missed
    if (code) return OnAttemptEnd(*code);
    if (attempt_->kill_at && SteadyClock::now() >= *attempt_->kill_at) attempt_->child->Kill();
  }
  return OnSignals();
}

Action Supervisor::OnSignals() {
  while (const std::optional<int> signal = signals_.Next()) {
    if (*signal == SIGCHLD) continue;
    log_.Say(fmt::format("got SIG{}", sigabbrev_np(*signal)));
    // A terminal that closes says so twice (its shell, then the system), and schedulers may, too.
    const bool insists = *signal == SIGTERM || *signal == SIGINT;
    const Action action = policy_.OnStopRequest(insists);
    if (action.kind != Action::Kind::kNone) return action;
  }
  return {};
}

void Supervisor::Start() { start_failure_ = TryStart(); }

absl::Status Supervisor::TryStart() {
  const bool first = policy_.restarts() == 0;
  SAVIOR_ASSIGN_OR_RETURN(const Survivors found, FindHosts());
  for (const std::string& reason : found.dead) log_.Say("without " + reason);
  // A machine that was never there is a slip of the pen; one that has gone is what this is for.
  if (first && !found.dead.empty() && NewestStep(run_) < 0 && !slurm_) {
    return absl::InvalidArgumentError(
        fmt::format("{} of {} hosts cannot be used, and there is no commit to go on from",
                    found.dead.size(), hosts_.size()));
  }
  const bool local = hosts_.empty() && !slurm_;
  if (found.alive.empty() && !local) return absl::UnavailableError("no host is alive");
  if (local && !config_.cluster.interface.empty()) {
    SAVIOR_RETURN_IF_ERROR(AddressOf(config_.cluster.interface).status());
  }
  const Job job = MakeJob(found.alive);
  const Starter starter = slurm_ ? Starter::kSrun : Starter::kMpirun;
  auto attempt = std::make_unique<Attempt>();
  attempt->hosts = found.alive;
  attempt->incomplete = !found.dead.empty();
  attempt->former_result = ResultTime();
  const auto sink = [this, starter, raw = attempt.get()](bool error) {
    return [this, starter, raw, error](int rank, std::string_view line) {
      raw->NoteFailure(line);
      if (rank < 0) {
        // The second: the allocation is too small, now and at every restart.
        for (const char* lasting :
             {"Exited with exit code 2", "More processors requested than permitted"}) {
          if (line.find(lasting) != line.npos) raw->bad_input = true;
        }
        if (!line.empty()) log_.Show(starter == Starter::kSrun ? "srun" : "mpirun", line, error);
        return;
      }
      const std::string host = HostOfRank(raw->hosts, rank);
      log_.Show(fmt::format("{}{}rank {}", host, host.empty() ? "" : " ", rank), line, error);
    };
  };
  attempt->out = std::make_unique<RankLines>(starter, sink(false));
  attempt->err = std::make_unique<RankLines>(starter, sink(true));
  const std::string where = job.hosts.empty() ? "this machine" : ToString(job.hosts);
  const int64_t commit = NewestStep(run_);
  log_.Say(fmt::format("starting {} rank{} on {}, from {}", job.ranks, job.ranks == 1 ? "" : "s",
                       where, commit < 0 ? "the beginning" : fmt::format("step {}", commit)));
  // With us mpirun has to end at once: asked to (SIGTERM) it hung, ranks gone, in one of 800 kills,
  // and nobody is left to kill it then. Ranks and daemons end with it (launcher/orphan.h). srun
  // ends its step only if it is asked.
  SAVIOR_ASSIGN_OR_RETURN(attempt->child,
                          Child::Start(slurm_ ? SrunCommand(job) : MpirunCommand(job),
                                       {.death_signal = slurm_ ? SIGTERM : SIGKILL}));
  attempt_ = std::move(attempt);
  return absl::OkStatus();
}

absl::StatusOr<Survivors> Supervisor::FindHosts() const {
  if (slurm_) return NodesOfAllocation(ranks_, kProbeTimeout);
  return ProbeHosts(hosts_, config_.cluster.interface, kProbeTimeout);
}

Job Supervisor::MakeJob(const std::vector<Host>& hosts) const {
  Job job;
  job.hosts = hosts;
  job.ranks = hosts.empty() ? ranks_ : RanksOn(hosts);
  job.interface = config_.cluster.interface;
  job.lease_s = config_.cluster.lease_s;
  job.folder = fs::current_path().string();
  job.root = ::geteuid() == 0;
  job.program = {program_, "train", fs::absolute(options_.config_path).string()};
  job.program.insert(job.program.end(), options_.overrides.begin(), options_.overrides.end());
  job.program.emplace_back("--resume");
  return job;
}

void Supervisor::ReadOutput() {
  std::string bytes;
  ReadAvailable(attempt_->child->out(), bytes);
  attempt_->out->Add(bytes);
  bytes.clear();
  ReadAvailable(attempt_->child->err(), bytes);
  attempt_->err->Add(bytes);
}

Action Supervisor::OnAttemptEnd(int code) {
  attempt_->out->Finish();
  attempt_->err->Finish();
  const bool finished = code == kExitOk && ResultTime() != attempt_->former_result;
  if (slurm_ && code != kExitOk && attempt_->bad_input) code = kExitBadInput;
  const bool incomplete = attempt_->incomplete;
  const char* starter = slurm_ ? "srun" : "mpirun";
  // Makes sure of what it started; ranks elsewhere end with their daemon.
  attempt_->child->Kill();
  attempt_.reset();
  if (code != kExitOk) log_.Say(fmt::format("{} ended with exit code {}", starter, code));
  // What asks too much of the hosts that are left (cluster.workers) may suit all of them.
  if (code == kExitBadInput && incomplete) code = kExitFailed;
  return Report({code, NewestStep(run_), finished});
}

Action Supervisor::OnFailedStart(const absl::Status& status) {
  log_.Say(std::string(status.message()));
  // mpirun is not installed, or a host was never there.
  const bool lasting = absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status);
  return Report({lasting ? kExitBadInput : kExitFailed, NewestStep(run_), false});
}

Action Supervisor::Report(const AttemptEnd& end) {
  const SteadyClock::time_point now = SteadyClock::now();
  const Action action = policy_.OnEnd(end, now);
  if (action.kind == Action::Kind::kNone) {
    const double wait = std::chrono::duration<double>(policy_.start_at() - now).count();
    log_.Say(fmt::format("restart {} of {} without a new commit in {:.1f} s",
                         policy_.failures_in_a_row(), config_.cluster.max_restarts, wait));
  }
  return action;
}

void Supervisor::Kill() {
  attempt_->child->Signal(SIGTERM);
  attempt_->kill_at = SteadyClock::now() + kKillAfter;
}

void Supervisor::SayEnd(Outcome outcome) {
  const int64_t commit = NewestStep(run_);
  const std::string where =
      commit < 0 ? "nothing was committed" : fmt::format("step {} is committed", commit);
  const std::string times =
      fmt::format("{} restart{}", policy_.restarts(), policy_.restarts() == 1 ? "" : "s");
  std::string what;
  switch (outcome) {
    case Outcome::kFinished:
      what = fmt::format("finished after {}; result: {}", times, result().string());
      break;
    case Outcome::kStopped:
      what = fmt::format("stopped; {}. The same command goes on from there", where);
      break;
    case Outcome::kStopFailed:
      what = fmt::format("stopped, but not in order; {}", where);
      break;
    case Outcome::kKilled:
      what = fmt::format("killed; {}", where);
      break;
    case Outcome::kBadInput:
      what = fmt::format("cannot go on: no restart mends the error above; {}", where);
      break;
    case Outcome::kGaveUp:
      what = fmt::format("gave up after {}; {}", times, where);
      break;
  }
  log_.Say(fmt::format("{}; log: {}", what, log_.path().string()));
}

}  // namespace

int64_t DefaultRanks(const Config::Cluster& cluster, int64_t machines) {
  const int64_t per_node = cluster.servers_per_node + cluster.workers_per_node;
  if (per_node > 0) return per_node;
  const int64_t total = cluster.servers + cluster.workers;
  return std::max<int64_t>(1, (total + machines - 1) / machines);
}

absl::StatusOr<LaunchEnd> Launch(const LaunchOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const Config config, LoadConfig(options.config_path, options.overrides));
  std::vector<Host> hosts;
  if (!options.hosts.empty()) {
    const int64_t machines = std::ranges::count(options.hosts, ',') + 1;
    SAVIOR_ASSIGN_OR_RETURN(hosts,
                            ParseHosts(options.hosts, DefaultRanks(config.cluster, machines)));
  }
  const int64_t ranks = options.ranks > 0 ? options.ranks : DefaultRanks(config.cluster, 1);
  const fs::path run = config.run.dir;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(run));
  absl::StatusOr<std::unique_ptr<FileLock>> lock = FileLock::Take(run / "launch.lock");
  if (!lock.ok()) return Annotate(lock.status(), "another savior launch has this run");
  return Supervisor(config, options, std::move(hosts), ranks).Run();
}

}  // namespace savior
