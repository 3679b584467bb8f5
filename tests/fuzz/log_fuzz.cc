// Any bytes as the manifest of a training log; and the same bytes with a fingerprint that holds, so
// that what is behind it is reached. What other files a log has is named by digests there, and read
// by Arrow.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/files.h"
#include "worker/data/training_log.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

const fs::path& Folder() {
  static const fs::path folder = [] {
    fs::path path = fs::temp_directory_path() / ("savior-log-fuzz-" + std::to_string(::getpid()));
    fs::create_directories(path);
    std::atexit([] {
      std::error_code ignored;
      fs::remove_all(fs::temp_directory_path() / ("savior-log-fuzz-" + std::to_string(::getpid())),
                     ignored);
    });
    return path;
  }();
  return folder;
}

void Open(const std::string& manifest) {
  std::ofstream(Folder() / "manifest.json", std::ios::binary | std::ios::trunc) << manifest;
  // None of the files that it may name is there.
  const auto log = TrainingLog::Open(Folder());
  if (!log.ok() && !absl::IsDataLoss(log.status()) && !absl::IsNotFound(log.status())) {
    std::abort();
  }
}

}  // namespace
}  // namespace savior

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  savior::Open(text);
  using Json = nlohmann::json;
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return 0;
  try {
    json.erase("fingerprint");
    json["fingerprint"] = savior::DigestBytes(json.dump());
    savior::Open(json.dump(1));
  } catch (const Json::exception&) {  // bytes that are no UTF-8 cannot be written
  }
  return 0;
}
