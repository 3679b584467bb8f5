// Any bytes as a sealed manifest, of a commit or a bundle; and the same bytes sealed, so that what
// is behind the digest is reached.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "common/files.h"
#include "common/sealed_folder.h"

namespace savior {
namespace {

void Unseal(const std::string& text) {
  const auto manifest = UnsealManifest("manifest.json", text);
  if (!manifest.ok()) {
    if (!absl::IsDataLoss(manifest.status())) std::abort();
    return;
  }
  if (SealManifest(manifest->fields, manifest->files) != text) std::abort();
}

}  // namespace
}  // namespace savior

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  savior::Unseal(text);
  using Json = nlohmann::ordered_json;
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return 0;
  try {
    json.erase("xxh3");
    json["xxh3"] = savior::DigestBytes(json.dump());
    savior::Unseal(json.dump(1) + "\n");
  } catch (const Json::exception&) {  // bytes that are no UTF-8 cannot be written
  }
  return 0;
}
