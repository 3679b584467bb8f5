#include "common/digest_cache.h"

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include <cerrno>

#include "common/files.h"

namespace savior {
namespace {

// Of 200 bytes: a run of months makes new files all the time. Whoever is forgotten is read again.
constexpr size_t kMostDigests = size_t{1} << 17;

}  // namespace

absl::StatusOr<DigestCache::Identity> DigestCache::IdentityOf(const std::filesystem::path& path) {
  struct stat s = {};
  if (::stat(path.c_str(), &s) != 0) {
    return SystemError(errno, absl::StrCat("looking at ", path.string()));
  }
  return Identity{s.st_dev, s.st_ino, static_cast<uint64_t>(s.st_size),
                  static_cast<uint64_t>(s.st_mtim.tv_sec),
                  static_cast<uint64_t>(s.st_mtim.tv_nsec)};
}

absl::StatusOr<std::string> DigestCache::Of(const std::filesystem::path& path) {
  SAVIOR_ASSIGN_OR_RETURN(const Identity identity, IdentityOf(path));
  {
    const std::lock_guard lock(mutex_);
    const auto found = digests_.find(identity);
    if (found != digests_.end()) return found->second;
  }
  SAVIOR_ASSIGN_OR_RETURN(std::string digest, DigestFile(path));
  const std::lock_guard lock(mutex_);
  ++read_;
  if (digests_.size() >= kMostDigests) digests_.clear();
  digests_[identity] = digest;
  return digest;
}

void DigestCache::Add(const std::filesystem::path& path, const std::string& digest) {
  const absl::StatusOr<Identity> identity = IdentityOf(path);
  if (!identity.ok()) return;
  const std::lock_guard lock(mutex_);
  if (digests_.size() >= kMostDigests) digests_.clear();
  digests_[*identity] = digest;
}

uint64_t DigestCache::read() const {
  const std::lock_guard lock(mutex_);
  return read_;
}

}  // namespace savior
