#include "launcher/publisher.h"

#include <fmt/format.h>
#include <glog/logging.h>
#include <poll.h>

#include <utility>
#include <vector>

#include "common/files.h"
#include "launcher/commit.h"
#include "serving/bundle.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Kind = PublishAction::Kind;

// An export that takes longer hangs: it is ended, so that another one gets its turn.
constexpr std::chrono::hours kLongestExport{2};
// A tenth of the processor's time where training wants all of it.
constexpr int kNice = 10;

fs::path Absolute(const fs::path& path) { return fs::absolute(path).lexically_normal(); }

}  // namespace

Publisher::Publisher(PublisherOptions options, Deadline now)
    : options_(std::move(options)),
      commits_(Absolute(options_.run / "commits")),
      scratch_(Absolute(options_.run / "export")),
      policy_(options_.config.every_s, options_.config.full_every, now) {
  policy_.Found(FindEnd());
}

Publisher::~Publisher() {
  if (child_ != nullptr) LOG(INFO) << "export: given up, since the run ends";
  child_.reset();
  // What a killed child has left behind.
  RemoveAll(scratch_).IgnoreError();
}

// Whatever does not fit is said, and a full bundle is what follows.
std::optional<ChainEnd> Publisher::FindEnd() const {
  const fs::path dir = options_.config.dir;
  const auto name = CurrentBundle(dir);
  if (!name.ok()) return std::nullopt;
  const auto bundle = OpenBundle(dir / *name, /*digests=*/false);
  const auto full_because = [&](const std::string& why) {
    LOG(INFO) << "export: the next bundle is a full one: " << why;
    return std::nullopt;
  };
  if (!bundle.ok()) return full_because(std::string(bundle.status().message()));
  const BundleManifest& m = bundle->manifest;
  if (fs::path(m.commit).parent_path() != commits_) {
    return full_because(fmt::format("{} is of another run ({})", bundle->folder.string(),
                                    fs::path(m.commit).parent_path().string()));
  }
  if (NameOf(m.precision) != options_.config.precision) {
    return full_because(fmt::format("{} has {} rows, export.precision is {}",
                                    bundle->folder.string(), NameOf(m.precision),
                                    options_.config.precision));
  }
  return ChainEnd{m.step, m.sequence};
}

void Publisher::AfterStep(Deadline now, int64_t step, int64_t committed, int64_t begun) {
  if (child_ != nullptr) Tend(now);
  const PublishAction action = policy_.Next(now, step, committed, begun, child_ != nullptr);
  wants_commit_ = action.kind == Kind::kCommit;
  if (action.kind == Kind::kFull || action.kind == Kind::kDelta) Start(now, committed, action);
}

void Publisher::Start(Deadline now, int64_t step, const PublishAction& action) {
  policy_.Started(now);
  const Config::Export& config = options_.config;
  in_use_ = CommitFolder(commits_, step);
  std::vector<std::string> command = {options_.program, "export",   in_use_.string(),
                                      "--out",          config.dir, "--precision",
                                      config.precision, "--keep",   fmt::format("{}", config.keep)};
  if (action.kind == Kind::kDelta) {
    command.insert(command.end(), {"--since", fmt::format("{}", action.since)});
  }
  ChildOptions options;
  options.nice = kNice;
  // To MPI it would be a second process of the lead's rank.
  options.unset = {"OMPI_", "PMIX_", "PMI_", "PRTE_"};
  // Beside the commit: hard links to its files cost nothing, and a killed child's are found.
  options.set = {{"TMPDIR", scratch_.string()}};
  absl::Status started = RemoveAll(scratch_);
  started.Update(MakeWritableFolder(scratch_));
  if (started.ok()) {
    auto child = Child::Start(command, options);
    started.Update(child.status());
    if (child.ok()) child_ = *std::move(child);
  }
  if (!started.ok()) return Ended(std::string(started.message()));
  limit_ = now + kLongestExport;
  LOG(INFO) << "export: " << BundleName(step)
            << (action.kind == Kind::kDelta ? " since " + BundleName(action.since) : ", full")
            << " -> " << config.dir;
}

void Publisher::Tend(Deadline now) {
  const std::optional<int> code = child_->Ended();
  ReadAvailable(child_->out(), out_);  // after the end, so nothing is missed
  ReadAvailable(child_->err(), err_);
  Log(out_, code.has_value());
  Log(err_, code.has_value());
  if (code) {
    Ended(*code == 0 ? "" : fmt::format("exit code {}", *code));
  } else if (now >= limit_) {
    Ended(fmt::format("took longer than {} hours", kLongestExport.count()));
  }
}

// Whole lines; with `all` also what has no newline.
void Publisher::Log(std::string& bytes, bool all) {
  size_t begin = 0;
  for (size_t end; (end = bytes.find('\n', begin)) != bytes.npos; begin = end + 1) {
    LOG(INFO) << "export | " << std::string_view(bytes).substr(begin, end - begin);
  }
  bytes.erase(0, begin);
  if (!all || bytes.empty()) return;
  LOG(INFO) << "export | " << bytes;
  bytes.clear();
}

void Publisher::Ended(const std::string& failure) {
  child_.reset();
  out_.clear();
  err_.clear();
  if (failure.empty()) {
    ++published_;
    policy_.Found(FindEnd());
  } else {
    ++failed_;
    policy_.Found(std::nullopt);
    LOG(WARNING) << "export: " << in_use_.string() << " -> " << options_.config.dir
                 << " failed: " << failure << "; training goes on, the next bundle is a full one ("
                 << published_ << " published, " << failed_ << " failed)";
  }
  in_use_.clear();
}

bool Publisher::WaitForChild(const std::function<bool()>& give_up) {
  while (child_ != nullptr) {
    if (give_up()) return false;
    Tend(SteadyClock::now());
    if (child_ != nullptr) ::poll(nullptr, 0, 20);
  }
  return true;
}

void Publisher::Finish(int64_t committed, const std::function<bool()>& give_up) {
  wants_commit_ = false;
  if (!WaitForChild(give_up)) return;
  const PublishAction action = policy_.Export(committed);
  const int64_t failed_before = failed_;
  if (action.kind != Kind::kNothing) {
    Start(SteadyClock::now(), committed, action);
    if (!WaitForChild(give_up)) return;
  }
  if (failed_ > failed_before) {
    LOG(WARNING) << "export: the run's last commit is not published; do it by hand: savior export "
                 << CommitFolder(commits_, committed).string() << " --out " << options_.config.dir;
  } else {
    LOG(INFO) << "export: " << options_.config.dir << " has step " << committed << " ("
              << published_ << " published, " << failed_ << " failed)";
  }
}

}  // namespace savior
