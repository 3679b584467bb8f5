#include "launcher/temporary_folder.h"

#include <glog/logging.h>

#include <cerrno>
#include <cstdlib>

#include "common/files.h"

namespace savior {

absl::StatusOr<std::unique_ptr<TemporaryFolder>> TemporaryFolder::Make(const std::string& purpose) {
  std::string name =
      (std::filesystem::temp_directory_path() / ("savior-" + purpose + "-XXXXXX")).string();
  if (::mkdtemp(name.data()) == nullptr) {
    return SystemError(errno, name + ": cannot make a temporary folder");
  }
  return std::unique_ptr<TemporaryFolder>(new TemporaryFolder(name));
}

TemporaryFolder::~TemporaryFolder() {
  if (const absl::Status removed = RemoveAll(path_); !removed.ok()) {
    LOG(WARNING) << "left behind: " << removed.message();
  }
}

}  // namespace savior
