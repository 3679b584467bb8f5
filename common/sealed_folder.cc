#include "common/sealed_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "common/at_once.h"
#include "common/files.h"

namespace savior {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

absl::Status RemoveUnfinished(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> parts;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::end(it);
       it.increment(error)) {
    if (it->path().string().ends_with(kUnfinished)) parts.push_back(it->path());
  }
  for (const fs::path& part : parts) SAVIOR_RETURN_IF_ERROR(RemoveAll(part));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SealedFile>> ListFiles(const fs::path& folder, DigestCache* digests) {
  std::vector<SealedFile> files;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::end(it);
       it.increment(error)) {
    if (!it->is_regular_file(error) || error) continue;
    SealedFile& file = files.emplace_back();
    file.path = fs::relative(it->path(), folder, error).string();
    file.bytes = it->file_size(error);
    if (error) break;
    const bool cached = digests != nullptr && it->path().extension() == ".sst";
    SAVIOR_ASSIGN_OR_RETURN(file.xxh3, cached ? digests->Of(it->path()) : DigestFile(it->path()));
  }
  if (error) return absl::UnavailableError(fmt::format("{}: {}", folder.string(), error.message()));
  std::ranges::sort(files, {}, &SealedFile::path);
  return files;
}

std::string SealManifest(Json fields, std::span<const SealedFile> files) {
  fields["files"] = Json::array();
  for (const SealedFile& f : files) {
    fields["files"].push_back({{"path", f.path}, {"bytes", f.bytes}, {"xxh3", f.xxh3}});
  }
  fields["xxh3"] = DigestBytes(fields.dump());
  return fields.dump(1) + "\n";
}

absl::StatusOr<SealedManifest> UnsealManifest(const fs::path& path, const std::string& text) {
  const auto damaged = [&path](const std::string& what) {
    return absl::DataLossError(fmt::format("{}: {}", path.string(), what));
  };
  try {
    SealedManifest manifest;
    Json& j = manifest.fields;
    j = Json::parse(text);
    // Byte for byte: another spelling of the same values ("1E-8" for "1e-8") is a flipped byte too.
    if (j.dump(1) + "\n" != text) return damaged("not as it was written");
    manifest.xxh3 = j.at("xxh3").get<std::string>();
    j.erase("xxh3");
    if (const std::string found = DigestBytes(j.dump()); found != manifest.xxh3) {
      return damaged(fmt::format("digest {}, expected {}", found, manifest.xxh3));
    }
    for (const Json& f : j.at("files")) {
      manifest.files.push_back({f.at("path").get<std::string>(), f.at("bytes").get<uint64_t>(),
                                f.at("xxh3").get<std::string>()});
    }
    j.erase("files");
    // Nor is there anything that we would not have written: a file's entry with more to it, say.
    if (SealManifest(j, manifest.files) != text) return damaged("not as it is written");
    return manifest;
  } catch (const Json::exception& e) {
    return damaged(fmt::format("not a manifest: {}", e.what()));
  }
}

absl::Status CheckFiles(const fs::path& folder, std::span<const SealedFile> files, bool digests,
                        DigestCache* known, size_t threads) {
  for (const SealedFile& file : files) {
    const fs::path at = folder / file.path;
    std::error_code error;
    const uintmax_t bytes = fs::file_size(at, error);
    if (error || bytes != file.bytes) {
      return absl::DataLossError(fmt::format("{}: {}, expected {} bytes", at.string(),
                                             error ? "missing" : fmt::format("{} bytes", bytes),
                                             file.bytes));
    }
  }
  if (!digests) return absl::OkStatus();
  return ShareOut(files.size(), threads, [&](size_t f) -> absl::Status {
    const fs::path at = folder / files[f].path;
    SAVIOR_ASSIGN_OR_RETURN(const std::string found,
                            known != nullptr ? known->Of(at) : DigestFile(at));
    if (found == files[f].xxh3) return absl::OkStatus();
    return absl::DataLossError(
        fmt::format("{}: digest {}, expected {}", at.string(), found, files[f].xxh3));
  });
}

}  // namespace savior
