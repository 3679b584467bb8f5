#include "launcher/refresh_request.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

fs::path FileOf(const fs::path& run) { return run / "refresh.request"; }

const char* NameOf(RefreshRequest::What what) {
  return what == RefreshRequest::What::kRollback ? "rollback" : "refresh";
}

}  // namespace

absl::Status AskForRefresh(const fs::path& run, const RefreshRequest& request) {
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<RefreshRequest> waiting, ReadRefreshRequest(run));
  if (waiting && *waiting != request) {
    return absl::FailedPreconditionError(
        fmt::format("{}: a {} to codebook version {} waits for its answer: one at a time",
                    FileOf(run).string(), NameOf(waiting->what), waiting->version));
  }
  const nlohmann::json json = {{"what", NameOf(request.what)}, {"version", request.version}};
  return WriteFileAtomically(FileOf(run), json.dump() + "\n");
}

absl::StatusOr<std::optional<RefreshRequest>> ReadRefreshRequest(const fs::path& run) {
  if (!fs::exists(FileOf(run))) return std::nullopt;
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(FileOf(run)));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("what") && json.contains("version") &&
      json["version"].is_number_unsigned()) {
    for (const auto what : {RefreshRequest::What::kRefresh, RefreshRequest::What::kRollback}) {
      if (json["what"] == NameOf(what)) {
        return RefreshRequest{what, json["version"].get<uint32_t>()};
      }
    }
  }
  return absl::DataLossError(
      fmt::format("{}: no request of `savior refresh`: delete it", FileOf(run).string()));
}

absl::Status RemoveRefreshRequest(const fs::path& run) {
  return fs::exists(FileOf(run)) ? RemoveAll(FileOf(run)) : absl::OkStatus();
}

}  // namespace savior
