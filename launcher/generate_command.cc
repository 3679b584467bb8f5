#include "launcher/generate_command.h"

#include <CLI/CLI.hpp>

namespace savior {

void AddGenerate(CLI::App& app, GenerateOptions& o) {
  CLI::App* generate =
      app.add_subcommand("generate", "Writes a raw data set of any size with planted truth");
  generate->footer(
      "Examples:\n"
      "  savior generate --out planted\n"
      "  savior generate --out big --users 1000000 --items 1000000 --days 100");
  generate->add_option("--out", o.out, "Folder to write")->required();
  generate->add_option("--seed", o.seed, "Seed: same options, same bytes")->capture_default_str();
  generate->add_option("--users", o.users, "Users")->capture_default_str();
  generate->add_option("--items", o.items, "Items")->capture_default_str();
  generate->add_option("--days", o.days, "Days")->capture_default_str();
  generate->add_option("--requests-per-user-day", o.requests_per_user_day, "Requests")
      ->capture_default_str();
  generate->add_option("--candidates", o.candidates, "Impressions per request")
      ->capture_default_str();
  generate->add_option("--clusters", o.clusters, "Content clusters")->capture_default_str();
  generate->add_option("--vector-dim", o.vector_dim, "Length of text vectors")
      ->capture_default_str();
  generate->add_option("--image-dim", o.image_dim, "Length of image vectors; 0: none")
      ->capture_default_str();
  generate->add_option("--noise", o.noise, "Noise in a vector, against 1 of its centre")
      ->capture_default_str();
  generate->add_option("--zipf", o.zipf, "Exponent of popularity")->capture_default_str();
  generate->add_option("--arrivals", o.arrivals, "Share of items listed during the period")
      ->capture_default_str();
  generate->add_option("--drift", o.drift, "Quarter turns of the centres over the period")
      ->capture_default_str();
  generate->add_option("--no-vector", o.no_vector, "Share of items without a vector")
      ->capture_default_str();
}

}  // namespace savior
