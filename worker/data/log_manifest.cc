#include "worker/data/log_manifest.h"

#include <absl/strings/str_format.h>
#include <absl/time/time.h>

#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "common/files.h"
#include "worker/data/log_schema.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;  // objects are ordered by key: same content, same bytes

constexpr char kFormat[] = "savior training log";

Json ToJson(const LogManifest& manifest) {
  Json days = Json::array();
  for (size_t i = 0; i < manifest.days.size(); ++i) {
    days.push_back({{"start", manifest.days[i].start},
                    {"requests", manifest.days[i].requests},
                    {"rows", manifest.days[i].rows},
                    {"file_start", manifest.day_places[i].file_start},
                    {"batch", manifest.day_places[i].batch}});
  }
  Json files = Json::object();
  for (const auto& [name, entry] : manifest.files) {
    files[name] = {{"bytes", entry.bytes}, {"digest", entry.digest}};
  }
  return {{"format", kFormat},
          {"version", kLogVersion},
          {"schema", SchemaToJson(manifest.schema)},
          {"users", manifest.users},
          {"items", manifest.items},
          {"contents", manifest.contents},
          {"items_without_vector", manifest.items_without_vector},
          {"impressions", manifest.impressions},
          {"requests", manifest.requests},
          {"behaviours", manifest.behaviours},
          {"clicks", manifest.clicks},
          {"conversions", manifest.conversions},
          {"days", days},
          {"timeline_first_users", manifest.timeline_first_users},
          {"files", files}};
}

// Throws Json::exception.
LogManifest FromJson(const Json& json) {
  LogManifest manifest;
  manifest.schema = SchemaFromJson(json.at("schema"));
  manifest.users = json.at("users");
  manifest.items = json.at("items");
  manifest.contents = json.at("contents");
  manifest.items_without_vector = json.at("items_without_vector");
  manifest.impressions = json.at("impressions");
  manifest.requests = json.at("requests");
  manifest.behaviours = json.at("behaviours");
  manifest.clicks = json.at("clicks");
  manifest.conversions = json.at("conversions");
  for (const Json& day : json.at("days")) {
    manifest.days.push_back(
        {.start = day.at("start"), .requests = day.at("requests"), .rows = day.at("rows")});
    manifest.day_places.push_back({.file_start = day.at("file_start"), .batch = day.at("batch")});
  }
  manifest.timeline_first_users = json.at("timeline_first_users").get<std::vector<int64_t>>();
  for (const auto& [name, entry] : json.at("files").items()) {
    manifest.files[name] = {.bytes = entry.at("bytes"), .digest = entry.at("digest")};
  }
  return manifest;
}

}  // namespace

std::string VectorsName(const std::string& modality) { return "vectors-" + modality + ".arrow"; }

std::string TimelinesName(size_t part) { return absl::StrFormat("timelines-%05d.arrow", part); }

std::string DaysName(int64_t file_start, const std::string& what) {
  const std::string date =
      absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(file_start), absl::UTCTimeZone());
  return "days/" + date + "-" + what + ".arrow";
}

absl::Status WriteLogManifest(const fs::path& folder, LogManifest* manifest) {
  manifest->files.clear();
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (!it->is_regular_file(error)) continue;
    SAVIOR_ASSIGN_OR_RETURN(auto digest, DigestFile(it->path()));
    manifest->files[it->path().lexically_relative(folder).generic_string()] = {
        .bytes = static_cast<int64_t>(it->file_size(error)), .digest = std::move(digest)};
  }
  if (error) return absl::FailedPreconditionError(folder.string() + ": " + error.message());

  Json json = ToJson(*manifest);
  manifest->fingerprint = DigestBytes(json.dump());
  json["fingerprint"] = manifest->fingerprint;
  return WriteFileAtomically(folder / kManifestName, json.dump(1) + "\n");
}

absl::StatusOr<LogManifest> ReadLogManifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  auto bytes = ReadFile(path);
  if (absl::IsNotFound(bytes.status())) {
    return absl::NotFoundError(folder.string() + ": no training log (it has no " + kManifestName +
                               "); `savior prepare` makes one");
  }
  if (!bytes.ok()) return bytes.status();
  try {
    Json json = Json::parse(*bytes);
    if (json.at("format") != kFormat || json.at("version") != kLogVersion) {
      return absl::DataLossError(path.string() + ": not a training log of version " +
                                 std::to_string(kLogVersion) + "; prepare it again");
    }
    const std::string fingerprint = json.at("fingerprint");
    json.erase("fingerprint");
    if (DigestBytes(json.dump()) != fingerprint) {
      return absl::DataLossError(path.string() + ": its fingerprint does not hold");
    }
    LogManifest manifest = FromJson(json);
    manifest.fingerprint = fingerprint;
    return manifest;
  } catch (const Json::exception& error) {
    return absl::DataLossError(path.string() + ": " + error.what());
  }
}

}  // namespace savior
