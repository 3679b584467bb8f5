#include "launcher/run_commits.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <chrono>
#include <system_error>

#include "common/failpoint.h"
#include "common/files.h"
#include "launcher/shards_seen.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Until shards have answered: to freeze, and whether they have written.
constexpr std::chrono::minutes kFreezeTimeout{10};
constexpr std::chrono::minutes kAnswerTimeout{1};
// Between two looks at what the shards write.
constexpr std::chrono::milliseconds kPause{20};

absl::Status WriteOne(const fs::path& path, const CommitFile& file) {
  if (const auto* tensors = std::get_if<TensorFile>(&file)) return WriteTensorFile(path, *tensors);
  return WriteFile(path, std::get<std::string>(file));
}

}  // namespace

class RunCommits::Shards final : public CommitShards {
 public:
  Shards(fs::path commits, RunStore* store) : commits_(std::move(commits)), store_(*store) {}

  absl::Status Freeze(int64_t step) override {
    SAVIOR_FAILPOINT("commit.before_freeze");
    SAVIOR_RETURN_IF_ERROR(
        store_.Freeze(PlaceOfCommit(commits_, step), step, DeadlineIn(kFreezeTimeout)));
    SAVIOR_FAILPOINT("commit.after_freeze");
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Written(int64_t step) override {
    return store_.CheckpointWritten(step, DeadlineIn(kAnswerTimeout));
  }

 private:
  const fs::path commits_;
  RunStore& store_;
};

class RunCommits::Files final : public CommitFiles {
 public:
  Files(fs::path commits, RunStore* store, DigestCache* digests,
        std::vector<std::pair<std::string, CommitFile>> constant)
      : commits_(std::move(commits)), store_(*store), digests_(*digests) {
    for (auto& [name, file] : constant) Change(std::move(name), std::move(file));
  }

  void Set(CommitContents contents) { contents_ = std::move(contents); }
  // No file: it is gone.
  void Change(std::string name, std::optional<CommitFile> file) {
    std::erase_if(constant_, [&](const Constant& other) { return other.name == name; });
    if (file) constant_.push_back({std::move(name), *std::move(file)});
  }
  uint64_t bytes() const { return bytes_; }
  uint64_t linked_bytes() const { return linked_bytes_; }

  absl::Status Begin(int64_t step) override { return BeginCommit(commits_, step).status(); }

  absl::Status WriteOwn(int64_t step) override {
    SAVIOR_FAILPOINT("commit.before_own_files");
    const fs::path part = UnfinishedCommit(commits_, step);
    SAVIOR_RETURN_IF_ERROR(WriteTensorFile(part / kDenseFile, contents_.dense));
    SAVIOR_FAILPOINT("commit.after_dense");
    contents_.dense = {};
    for (const auto& [name, file, in_newest] : constant_) {
      std::error_code not_linked = std::make_error_code(std::errc::not_supported);
      if (in_newest) {
        SAVIOR_FAILPOINT("commit.before_link");
        fs::create_hard_link(newest_ / name, part / name, not_linked);
      }
      if (not_linked) SAVIOR_RETURN_IF_ERROR(WriteOne(part / name, file));
    }
    SAVIOR_RETURN_IF_ERROR(WriteFile(part / kResolvedFile, contents_.resolved));
    SAVIOR_FAILPOINT("commit.after_own_files");
    return absl::OkStatus();
  }

  absl::Status Publish(int64_t step) override {
    SAVIOR_FAILPOINT("commit.before_publish");
    SAVIOR_RETURN_IF_ERROR(
        WaitForShards(UnfinishedCommit(commits_, step), store_.shards(),
                      [this](uint32_t shard) { return store_.ServerOf(shard); }));
    SAVIOR_ASSIGN_OR_RETURN(const Commit commit,
                            PublishCommit(commits_, std::move(contents_.manifest), &digests_));
    newest_ = commit.folder;
    for (Constant& constant : constant_) constant.in_newest = true;
    bytes_ = linked_bytes_ = 0;
    for (const SealedFile& file : commit.manifest.files) {
      bytes_ += file.bytes;
      // Another name of it is in an earlier commit, or in the live database: that is new, too, but
      // its bytes were written by training, not for the commit.
      std::error_code error;
      if (fs::hard_link_count(commit.folder / file.path, error) > 1 && !error) {
        linked_bytes_ += file.bytes;
      }
    }
    return absl::OkStatus();
  }

  void Discard(int64_t step) override {
    RemoveAll(UnfinishedCommit(commits_, step)).IgnoreError();  // the next start tries again
  }

  const fs::path& commits() const { return commits_; }

 private:
  struct Constant {
    std::string name;
    CommitFile file;
    bool in_newest = false;  // newest_ has it, as it is here
  };

  const fs::path commits_;
  RunStore& store_;
  DigestCache& digests_;
  std::vector<Constant> constant_;
  CommitContents contents_;
  fs::path newest_;  // commit of this object
  uint64_t bytes_ = 0, linked_bytes_ = 0;
};

RunCommits::RunCommits(fs::path folder, RunStore* store, DigestCache* digests,
                       std::vector<std::pair<std::string, CommitFile>> constant)
    : shards_(std::make_unique<Shards>(folder, store)),
      files_(std::make_unique<Files>(folder, store, digests, std::move(constant))),
      flow_(shards_.get(), files_.get(), {}) {}

RunCommits::~RunCommits() {
  give_up_ = true;
  Wait();
}

void RunCommits::Wait() {
  if (thread_.joinable()) thread_.join();
}

void RunCommits::Start(std::function<void()> work) {
  Wait();
  ended_ = false;
  thread_ = std::thread([this, work = std::move(work)] {
    work();
    ended_ = true;
  });
}

void RunCommits::SetConstant(std::string name, CommitFile file) {
  changes_.emplace_back(std::move(name), std::move(file));
}

void RunCommits::DropConstant(const std::string& name) {
  changes_.emplace_back(name, std::nullopt);
}

absl::Status RunCommits::Begin(CommitContents contents) {
  Wait();
  for (auto& [name, file] : changes_) files_->Change(std::move(name), std::move(file));
  changes_.clear();
  const int64_t step = contents.manifest.step;
  files_->Set(std::move(contents));
  under_way_ = true;
  absl::Status frozen = flow_.Freeze(step);
  Start([this] {
    while (flow_.under_way() && !give_up_) {
      if (!flow_.Advance()) std::this_thread::sleep_for(kPause);
    }
    if (flow_.state() == CommitState::kDone) Log();
  });
  return frozen;
}

void RunCommits::Log() const {
  LOG(INFO) << fmt::format(
      "commit of step {}: training stood still for {:.1f} ms, written in {:.2f} s, {:.1f} MB of "
      "which {:.1f} MB are links",
      flow_.step(), std::chrono::duration<double, std::milli>(flow_.frozen_for()).count(),
      SecondsSince(flow_.began()), 1e-6 * static_cast<double>(files_->bytes()),
      1e-6 * static_cast<double>(files_->linked_bytes()));
}

std::optional<CommitOutcome> RunCommits::Take(bool wait) {
  if (!under_way_ || (!wait && !ended_)) return std::nullopt;
  Wait();
  under_way_ = false;
  return CommitOutcome{
      flow_.step(),
      Annotate(flow_.failure(),
               "writing commit " + CommitFolder(files_->commits(), flow_.step()).string())};
}

void RunCommits::Prune(int64_t keep, std::vector<fs::path> pinned) {
  Start([this, keep, pinned = std::move(pinned)] {
    const absl::Status pruned = KeepNewest(files_->commits(), keep, pinned);
    LOG_IF(WARNING, !pruned.ok()) << "an old commit stays: " << pruned.message();
  });
}

}  // namespace savior
