#include "serving/bundle.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "common/failpoint.h"
#include "common/files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "savior.bundle";
constexpr int kVersion = 1;
constexpr const char* kCurrent = "current";

Json ToJson(const BundleManifest& m) {
  Json j = {{"format", kFormat},
            {"version", kVersion},
            {"step", m.step},
            {"sequence", m.sequence},
            {"base", nullptr},
            {"precision", NameOf(m.precision)},
            {"commit", m.commit},
            {"codebook_version", m.codebook_version},
            {"encoder_version", m.encoder_version},
            {"new_contents", m.new_contents},
            {"metrics", nullptr}};
  if (!m.metrics.empty()) j["metrics"] = Json::parse(m.metrics, nullptr, false);
  if (m.base) j["base"] = {{"step", m.base->step}, {"digest", m.base->digest}};
  j["tables"] = Json::array();
  for (const BundleManifest::Table& t : m.tables) {
    j["tables"].push_back(
        {{"name", t.name}, {"rows", t.rows}, {"gone", t.gone}, {"total", t.total}});
  }
  return j;
}

absl::StatusOr<BundleManifest> FromJson(const fs::path& path, const Json& j) {
  const auto damaged = [&path](const std::string& what) {
    return absl::DataLossError(fmt::format("{}: {}", path.string(), what));
  };
  try {
    if (j.at("format") != kFormat) return damaged("not a bundle's manifest");
    if (j.at("version").get<int>() != kVersion) {
      return damaged(fmt::format("version {}, this savior reads {}: export it again",
                                 j.at("version").get<int>(), kVersion));
    }
    BundleManifest m;
    m.step = j.at("step").get<int64_t>();
    m.sequence = j.at("sequence").get<int64_t>();
    if (const Json& base = j.at("base"); !base.is_null()) {
      m.base = {base.at("step").get<int64_t>(), base.at("digest").get<std::string>()};
    }
    SAVIOR_ASSIGN_OR_RETURN(m.precision, PrecisionNamed(j.at("precision").get<std::string>()));
    m.commit = j.at("commit").get<std::string>();
    m.codebook_version = j.at("codebook_version").get<std::string>();
    m.encoder_version = j.at("encoder_version").get<std::string>();
    // Bundles from before catalogues could grow have none.
    if (const auto n = j.find("new_contents"); n != j.end()) m.new_contents = n->get<uint64_t>();
    if (!j.at("metrics").is_null()) m.metrics = j.at("metrics").dump();
    for (const Json& t : j.at("tables")) {
      m.tables.push_back({t.at("name").get<std::string>(), t.at("rows").get<uint64_t>(),
                          t.at("gone").get<uint64_t>(), t.at("total").get<uint64_t>()});
    }
    return m;
  } catch (const Json::exception& e) {
    return damaged(fmt::format("not a bundle's manifest: {}", e.what()));
  }
}

absl::Status PointTo(const fs::path& dir, const std::string& name) {
  const fs::path link = dir / kCurrent;
  const fs::path beside = dir / absl::StrCat(kCurrent, ".", ::getpid(), kUnfinished);
  std::error_code error;
  fs::remove(beside, error);
  if (::symlink(name.c_str(), beside.c_str()) != 0) {
    return SystemError(errno, "linking " + beside.string());
  }
  SAVIOR_FAILPOINT("bundle.before_switch");
  if (::rename(beside.c_str(), link.c_str()) != 0) {
    return SystemError(errno, "renaming " + beside.string());
  }
  SAVIOR_FAILPOINT("bundle.after_switch");
  return SyncFolder(dir);
}

// Steps that have a bundle in `dir`, whole or not; ascending.
std::vector<int64_t> StepsIn(const fs::path& dir) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::end(it);
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    int64_t step = 0;
    if (absl::SimpleAtoi(name, &step) && name == BundleName(step)) steps.push_back(step);
  }
  std::ranges::sort(steps);
  return steps;
}

// Out of sight at once, off the disk then.
absl::Status DeleteBundle(const fs::path& folder) {
  SAVIOR_FAILPOINT("bundle.before_delete");
  const fs::path part = folder.string() + kUnfinished;
  if (::rename(folder.c_str(), part.c_str()) != 0) {
    return SystemError(errno, "renaming " + folder.string());
  }
  SAVIOR_RETURN_IF_ERROR(SyncFolder(folder.parent_path()));
  SAVIOR_FAILPOINT("bundle.before_removal");
  return RemoveAll(part);
}

// Whether a bundle of `step` lies there, newer than the current one: its writer was killed before
// anything pointed to it.
bool NeverCurrent(const fs::path& dir, int64_t step) {
  std::error_code error;
  if (!fs::exists(dir / BundleName(step), error)) return false;
  const absl::StatusOr<std::string> current = CurrentBundle(dir);
  return !current.ok() || *current < BundleName(step);  // fixed width: by name is by step
}

}  // namespace

fs::path Bundle::TablePath(const std::string& table) const { return folder / TableFileName(table); }

std::string BundleName(int64_t step) { return fmt::format("{:012}", step); }

std::string TableFileName(const std::string& table) {
  return absl::StrCat("tables/", table, ".safetensors");
}

absl::StatusOr<Bundle> WriteBundle(const fs::path& dir, BundleManifest manifest,
                                   const FillBundle& fill) {
  const fs::path target = dir / BundleName(manifest.step);
  const fs::path part = target.string() + kUnfinished;
  std::error_code error;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(dir));
  SAVIOR_ASSIGN_OR_RETURN(const auto lock, FileLock::Take(dir / "lock"));
  if (NeverCurrent(dir, manifest.step)) SAVIOR_RETURN_IF_ERROR(DeleteBundle(target));
  if (fs::exists(target, error)) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: a bundle of this step is there already: delete it, or choose another --out",
        target.string()));
  }
  SAVIOR_RETURN_IF_ERROR(RemoveUnfinished(dir));
  fs::create_directories(part / "tables", error);
  if (error) return SystemError(error.value(), "creating " + (part / "tables").string());
  const auto write = [&]() -> absl::StatusOr<std::string> {
    SAVIOR_FAILPOINT("bundle.before_files");
    SAVIOR_RETURN_IF_ERROR(fill(part, &manifest));
    SAVIOR_FAILPOINT("bundle.before_manifest");
    SAVIOR_ASSIGN_OR_RETURN(manifest.files, ListFiles(part));
    const std::string text = SealManifest(ToJson(manifest), manifest.files);
    SAVIOR_ASSIGN_OR_RETURN(const SealedManifest sealed,
                            UnsealManifest(part / kManifestFile, text));
    SAVIOR_RETURN_IF_ERROR(WriteFile(part / kManifestFile, text));
    SAVIOR_FAILPOINT("bundle.before_ready");
    SAVIOR_RETURN_IF_ERROR(WriteFile(part / kBundleReady, sealed.xxh3 + "\n"));
    SAVIOR_FAILPOINT("bundle.before_publish");
    SAVIOR_RETURN_IF_ERROR(PublishFolder(part, target));
    return sealed.xxh3;
  };
  absl::StatusOr<std::string> digest = write();
  if (!digest.ok()) {
    RemoveAll(part).IgnoreError();
    return Annotate(digest.status(), "writing bundle " + target.string());
  }
  SAVIOR_FAILPOINT("bundle.before_link");
  SAVIOR_RETURN_IF_ERROR(PointTo(dir, BundleName(manifest.step)));
  return Bundle{target, std::move(manifest), *std::move(digest)};
}

absl::StatusOr<Bundle> OpenBundle(const fs::path& folder, bool digests, DigestCache* known) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(fmt::format("{}: no bundle here", folder.string()));
  }
  const fs::path ready = folder / kBundleReady, path = folder / kManifestFile;
  for (const fs::path& needed : {ready, path}) {
    if (!fs::exists(needed, error)) {
      return absl::DataLossError(fmt::format("{}: missing: not a whole bundle", needed.string()));
    }
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::string said, ReadFile(ready));
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  SAVIOR_ASSIGN_OR_RETURN(SealedManifest sealed, UnsealManifest(path, text));
  if (said != sealed.xxh3 + "\n") {
    return absl::DataLossError(fmt::format("{}: names manifest {}, which is {}", ready.string(),
                                           said.substr(0, sealed.xxh3.size()), sealed.xxh3));
  }
  SAVIOR_ASSIGN_OR_RETURN(BundleManifest manifest, FromJson(path, sealed.fields));
  manifest.files = std::move(sealed.files);
  SAVIOR_RETURN_IF_ERROR(CheckFiles(folder, manifest.files, digests, known));
  return Bundle{folder, std::move(manifest), std::move(sealed.xxh3)};
}

absl::StatusOr<std::string> CurrentBundle(const fs::path& dir) {
  std::error_code error;
  const fs::path name = fs::read_symlink(dir / kCurrent, error);
  if (error) {
    return absl::NotFoundError(fmt::format("{}: {}: nothing was exported there",
                                           (dir / kCurrent).string(), error.message()));
  }
  return name.string();
}

absl::Status CheckNext(const Bundle& have, const Bundle& delta) {
  const BundleManifest& d = delta.manifest;
  const BundleManifest& h = have.manifest;
  const auto refuse = [&](const std::string& what) {
    return absl::FailedPreconditionError(
        fmt::format("{}: {} (sequence {}, after bundle {} with {})", delta.folder.string(), what,
                    d.sequence, have.version(), h.sequence));
  };
  if (!d.base) return refuse("is a full bundle, no delta");
  if (delta.digest == have.digest) return refuse("duplicate: this delta is applied already");
  if (d.sequence <= h.sequence) return refuse("too old: deltas come in the order of their numbers");
  if (d.sequence > h.sequence + 1) return refuse("gap: deltas before it are missing");
  if (d.base->step != h.step || d.base->digest != have.digest) {
    return refuse(fmt::format("wrong base: made for bundle {} with digest {}, not for {}",
                              BundleName(d.base->step), d.base->digest, have.digest));
  }
  return absl::OkStatus();
}

absl::StatusOr<TableChain> BundleChain::Table(const std::string& name) const {
  std::vector<std::shared_ptr<const TableFile>> files;
  for (const Bundle& bundle : bundles) {
    SAVIOR_ASSIGN_OR_RETURN(files.emplace_back(), TableFile::Open(bundle.TablePath(name)));
  }
  return TableChain::Of(std::move(files));
}

absl::StatusOr<BundleChain> OpenChain(const fs::path& dir, const std::string& name, bool digests,
                                      DigestCache* known) {
  BundleChain chain;
  std::string next = name;
  while (true) {
    absl::StatusOr<Bundle> bundle = OpenBundle(dir / next, digests, known);
    if (!bundle.ok() && !chain.bundles.empty()) {
      return Annotate(bundle.status(),
                      fmt::format("the base of {}", chain.bundles.back().folder.string()));
    }
    SAVIOR_RETURN_IF_ERROR(bundle.status());
    chain.bundles.push_back(*std::move(bundle));
    const BundleManifest& m = chain.bundles.back().manifest;
    if (!m.base) break;
    // A manifest that names itself, or a later one, would never end.
    if (m.base->step >= m.step || m.sequence <= 0) {
      return absl::DataLossError(fmt::format("{}: base {} is not older",
                                             chain.bundles.back().folder.string(), m.base->step));
    }
    next = BundleName(m.base->step);
  }
  std::ranges::reverse(chain.bundles);
  for (size_t b = 1; b < chain.bundles.size(); ++b) {
    SAVIOR_RETURN_IF_ERROR(CheckNext(chain.bundles[b - 1], chain.bundles[b]));
  }
  return chain;
}

absl::Status KeepNewestChains(const fs::path& dir, int64_t keep) {
  SAVIOR_ASSIGN_OR_RETURN(const auto lock, FileLock::Take(dir / "lock"));
  SAVIOR_ASSIGN_OR_RETURN(const std::string current, CurrentBundle(dir));
  SAVIOR_ASSIGN_OR_RETURN(const BundleChain serving, OpenChain(dir, current, /*digests=*/false));
  SAVIOR_RETURN_IF_ERROR(RemoveUnfinished(dir));
  std::vector<int64_t> steps = StepsIn(dir);
  // By step: that of the full bundle it goes back to. What is missing there is not in `fulls`.
  std::map<int64_t, int64_t> root;
  std::vector<int64_t> fulls;
  for (const int64_t step : steps) {
    const auto bundle = OpenBundle(dir / BundleName(step), /*digests=*/false);
    if (!bundle.ok()) continue;
    const std::optional<BundleBase>& base = bundle->manifest.base;
    if (!base) {
      root[step] = step;
      fulls.push_back(step);
    } else if (const auto of_base = root.find(base->step); of_base != root.end()) {
      root[step] = of_base->second;
    }
  }
  std::ranges::reverse(fulls);
  std::set<int64_t> kept = {serving.bundles.front().manifest.step};
  for (const int64_t step : fulls) {
    if (static_cast<int64_t>(kept.size()) < keep) kept.insert(step);
  }
  std::ranges::reverse(steps);  // a delta before its base
  for (const int64_t step : steps) {
    const auto of_step = root.find(step);
    if (of_step != root.end() && kept.contains(of_step->second)) continue;
    SAVIOR_RETURN_IF_ERROR(DeleteBundle(dir / BundleName(step)));
  }
  return absl::OkStatus();
}

}  // namespace savior
