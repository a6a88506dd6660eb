# The formula of a release, as a template: packaging/formula.py replaces what stands between @ signs.
class EdgeAgent < Formula
  desc "Receives Linear's webhooks on this machine, through edge-relay"
  homepage "@HOMEPAGE@"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    on_arm do
      url "@URL:aarch64-apple-darwin@"
      sha256 "@SHA256:aarch64-apple-darwin@"
    end
    on_intel do
      url "@URL:x86_64-apple-darwin@"
      sha256 "@SHA256:x86_64-apple-darwin@"
    end
  end

  on_linux do
    on_arm do
      url "@URL:aarch64-unknown-linux-gnu@"
      sha256 "@SHA256:aarch64-unknown-linux-gnu@"
    end
    on_intel do
      url "@URL:x86_64-unknown-linux-gnu@"
      sha256 "@SHA256:x86_64-unknown-linux-gnu@"
    end
  end

  def install
    bin.install "edge-agent"
    man1.install Dir["man/edge-agent*.1"]
    bash_completion.install "completions/edge-agent.bash" => "edge-agent"
    fish_completion.install "completions/edge-agent.fish"
    zsh_completion.install "completions/_edge-agent"
    pkgshare.install "edge-agent.schema.json"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/edge-agent --version")
    system bin/"edge-agent", "init", "3000"
    assert_path_exists testpath/"edge-agent.toml"
  end
end
