#include "worker/data/staging.h"

#include <system_error>
#include <utility>

namespace savior {
namespace {

namespace fs = std::filesystem;

fs::path WithSuffix(const fs::path& path, const std::string& suffix) {
  return path.string() + suffix;
}

absl::Status CheckReplaceable(const fs::path& target, const std::string& marker) {
  std::error_code error;
  if (!fs::exists(target, error)) return absl::OkStatus();
  if (fs::exists(target / marker, error) || fs::is_empty(target, error)) return absl::OkStatus();
  return absl::InvalidArgumentError(target.string() + ": exists and has no " + marker +
                                    "; it is not replaced. Remove it or name another folder");
}

}  // namespace

Staging::Staging(fs::path target, fs::path work, std::unique_ptr<FileLock> lock)
    : target_(std::move(target)), work_(std::move(work)), lock_(std::move(lock)) {}

absl::StatusOr<std::unique_ptr<Staging>> Staging::Begin(const fs::path& target,
                                                        const std::string& marker) {
  if (target.empty()) return absl::InvalidArgumentError("no output folder given");
  // "data/log/" names the same folder as "data/log".
  fs::path folder = fs::absolute(target).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();

  SAVIOR_RETURN_IF_ERROR(CheckReplaceable(folder, marker));
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder.parent_path()));
  SAVIOR_ASSIGN_OR_RETURN(auto lock, FileLock::Take(WithSuffix(folder, ".lock")));
  const fs::path work = WithSuffix(folder, ".part");
  SAVIOR_RETURN_IF_ERROR(RemoveAll(work));
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(work));
  return std::unique_ptr<Staging>(new Staging(std::move(folder), work, std::move(lock)));
}

Staging::~Staging() {
  if (!published_) RemoveAll(work_).IgnoreError();  // the next Begin removes what is left
}

absl::Status Staging::Publish() {
  // The older folder steps aside by rename, so that there is no instant with half of it at
  // `target`.
  const fs::path old = WithSuffix(target_, ".old");
  SAVIOR_RETURN_IF_ERROR(RemoveAll(old));
  std::error_code error;
  if (fs::exists(target_, error)) {
    fs::rename(target_, old, error);
    if (error) {
      return absl::FailedPreconditionError(target_.string() + ": " + error.message());
    }
  }
  SAVIOR_RETURN_IF_ERROR(PublishFolder(work_, target_));
  published_ = true;
  return RemoveAll(old);
}

}  // namespace savior
