#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <string>
#include <vector>

#include "common/files.h"
#include "common/transport.h"

namespace savior {
namespace {

constexpr size_t kZ85KeyChars = 40;

bool IsKey(const std::string& text) {
  uint8_t key[32];
  return text.size() == kZ85KeyChars && zmq_z85_decode(key, text.c_str()) != nullptr;
}

}  // namespace

CurveKeys CurveKeys::Make() {
  char public_key[kZ85KeyChars + 1];
  char secret_key[kZ85KeyChars + 1];
  CHECK_EQ(zmq_curve_keypair(public_key, secret_key), 0) << "libzmq was built without CURVE";
  return {.public_key = public_key, .secret_key = secret_key};
}

absl::Status CurveKeys::Save(const std::filesystem::path& path) const {
  const std::string what = absl::StrCat("writing the key file ", path.string());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
  if (fd < 0 && errno == EEXIST) {
    return absl::FailedPreconditionError(absl::StrCat(what, ": it exists; delete it first"));
  }
  if (fd < 0) return SystemError(errno, what);
  const std::string text = absl::StrCat(public_key, "\n", secret_key, "\n");
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const bool synced = written && ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  return synced ? absl::OkStatus() : SystemError(error, what);
}

absl::StatusOr<CurveKeys> CurveKeys::Load(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    return SystemError(errno, absl::StrCat("reading the key file ", path.string()));
  }
  if ((status.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the key file ", path.string(), " can be read by others: chmod 0400 it"));
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (lines.size() != 3 || !IsKey(lines[0]) || !IsKey(lines[1]) || !lines[2].empty()) {
    return absl::DataLossError(absl::StrCat("the key file ", path.string(), " holds no key pair"));
  }
  return CurveKeys{.public_key = lines[0], .secret_key = lines[1]};
}

}  // namespace savior
