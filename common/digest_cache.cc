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

absl::StatusOr<DigestCache::Identity> DigestCache::IdentityOf(
    const std::filesystem::path& path) const {
  struct stat s = {};
  if (::stat(path.c_str(), &s) != 0) {
    return SystemError(errno, absl::StrCat("looking at ", path.string()));
  }
  const timespec changed = links_ == Links::kNone ? s.st_ctim : timespec{};
  const auto whole = [](auto number) { return static_cast<uint64_t>(number); };
  return Identity{whole(s.st_dev),         whole(s.st_ino),          whole(s.st_size),
                  whole(s.st_mtim.tv_sec), whole(s.st_mtim.tv_nsec), whole(changed.tv_sec),
                  whole(changed.tv_nsec)};
}

absl::StatusOr<std::string> DigestCache::Of(const std::filesystem::path& path) {
  SAVIOR_ASSIGN_OR_RETURN(const Identity before, IdentityOf(path));
  {
    const std::lock_guard lock(mutex_);
    const auto found = digests_.find(before);
    if (found != digests_.end()) return found->second;
  }
  SAVIOR_ASSIGN_OR_RETURN(std::string digest, DigestFile(path));
  SAVIOR_ASSIGN_OR_RETURN(const Identity after, IdentityOf(path));
  const std::lock_guard lock(mutex_);
  bytes_read_ += before[2];
  // One that was written to while it was read is not known.
  if (after == before) Remember(before, digest);
  return digest;
}

void DigestCache::Add(const std::filesystem::path& path, const std::string& digest) {
  const absl::StatusOr<Identity> identity = IdentityOf(path);
  if (!identity.ok()) return;
  const std::lock_guard lock(mutex_);
  Remember(*identity, digest);
}

void DigestCache::Remember(const Identity& identity, const std::string& digest) {
  if (digests_.size() >= kMostDigests) digests_.clear();
  digests_[identity] = digest;
}

uint64_t DigestCache::bytes_read() const {
  const std::lock_guard lock(mutex_);
  return bytes_read_;
}

}  // namespace savior
