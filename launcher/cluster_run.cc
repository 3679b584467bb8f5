#include "launcher/cluster_run.h"

#include <absl/strings/str_cat.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "launcher/cluster_process.h"
#include "launcher/exit_code.h"

namespace savior {
namespace {

constexpr std::chrono::milliseconds kLook{100};

// Tells the coordinator when a signal asks this process to stop.
class SignalWatch {
 public:
  SignalWatch(const std::atomic<bool>* asked, ControlLink* link)
      : thread_([this, asked, link] {
          while (!done_) {
            if (asked != nullptr && asked->load()) {
              link->AskToStop();
              return;
            }
            std::this_thread::sleep_for(kLook);
          }
        }) {}
  ~SignalWatch() {
    done_ = true;
    thread_.join();
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

absl::StatusOr<EvalResult> ServeOnly(ClusterProcess* process, const RunOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const RunStart start, process->Agree(std::nullopt));
  if (options.before_first_step) options.before_first_step();
  SAVIOR_RETURN_IF_ERROR(process->OpenStore(start, {}).status());
  process->link()->WaitForEnd();
  return EvalResult{};
}

// Ends the process without destructors: they may wait for those who are gone.
[[noreturn]] void Fail(ClusterProcess* process, const absl::Status& status, bool trained) {
  const int code = ExitCodeOf(status, trained);
  // The coordinator says it for all, and then this does not return.
  if (process->link() != nullptr) {
    process->link()->ReportFailure(std::string(status.message()), code);
  }
  // What all find wrong, rank 0 says; mpirun ends the others then.
  if (process->rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  std::cerr << "savior: " << std::string(status.message()) << std::endl;
  std::_Exit(code);
}

// What work() returns, or what it throws as a status: unwinding the stack would run destructors.
template <typename Work>
auto Caught(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("internal error: ", e.what()));
  }
}

absl::StatusOr<EvalResult> TakeRole(ClusterProcess* process, const Config& config,
                                    const RunOptions& options, std::ostream& out) {
  if (!IsWorker(process->role())) {
    absl::StatusOr<EvalResult> served = Caught([&] { return ServeOnly(process, options); });
    if (!served.ok()) Fail(process, served.status(), /*trained=*/false);
    return served;
  }
  bool trained = false;
  RunOptions mine = options;
  // All workers stop after the same step: when the coordinator says so, not when a signal comes.
  mine.stop = &process->stop();
  mine.before_first_step = [&options, &trained] {
    if (options.before_first_step) options.before_first_step();
    trained = true;
  };
  TrainingRun run(config, mine, process, out);
  absl::StatusOr<EvalResult> result = Caught([&] { return run.Run(); });
  if (!result.ok() && !absl::IsCancelled(result.status())) {
    Fail(process, result.status(), trained);
  }
  process->link()->ReportFinished();
  return result;
}

}  // namespace

absl::StatusOr<EvalResult> TrainInCluster(const Config& config, const std::string& role,
                                          const RunOptions& options, std::ostream& out) {
  const auto process = std::make_unique<ClusterProcess>(config);
  const absl::Status joined = Caught([&] { return process->Join(role); });
  if (!joined.ok()) Fail(process.get(), joined, /*trained=*/false);
  const SignalWatch watch(options.stop, process->link());
  return TakeRole(process.get(), config, options, out);
}

}  // namespace savior
