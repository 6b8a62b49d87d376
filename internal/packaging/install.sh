#!/bin/sh
# Install a release of uvswitch, or remove it. `sh install.sh --help` explains.
set -eu
umask 022

usage() {
	cat <<'END'
Usage: sh install.sh [--from WHERE] [--version VERSION] [--prefix DIR] [--root DIR] [--uninstall]

Install a release of uvswitch. The release's checksum is verified before anything is written.

  as root          the command, man pages, shell completion, systemd units, and the links for CNI and netavark,
                   in the same places as the packages. Nothing is started.
  as another user  the command, man pages and shell completion, below ~/.local

  --from WHERE       a folder, or the URL of a folder, that has the release's files (default: the releases on GitHub)
  --version VERSION  a version, such as 0.2.0 (default: the latest)
  --prefix DIR       put the command, man pages and shell completion below DIR, and nothing else
  --root DIR         install into a system that is not running, such as an image; DIR is its root folder
  --uninstall        remove what this script has installed; give the same --prefix or --root again
END
}

fail() {
	printf '%s\n' "install.sh: $1" >&2
	exit 1
}

releases=https://github.com/uvswitch/uvswitch/releases
from='' version='' prefix='' root='' uninstall=''
while [ $# -gt 0 ]; do
	case "$1" in
	-h | --help) usage && exit ;;
	--uninstall) uninstall=yes ;;
	--from=* | --version=* | --prefix=* | --root=*)
		option=${1%%=*} value=${1#*=} && shift
		set -- ignored "$option" "$value" "$@"
		;;
	--from | --version | --prefix | --root)
		[ $# -gt 1 ] && [ -n "$2" ] || fail "$1 needs a value; see --help"
		eval "${1#--}=\$2" && shift
		;;
	*) fail "unknown option $1; see --help" ;;
	esac
	shift
done
[ -z "$prefix" ] || [ -z "$root" ] || fail "--prefix and --root exclude each other"
version=${version#v}
# absolute prints a folder with its whole path, without a slash at its end.
absolute() {
	case "$1" in
	/*) path=$1 ;;
	*) path=$(pwd)/$1 ;;
	esac
	while [ "$path" != "${path%/}" ]; do path=${path%/}; done
	printf '%s\n' "$path"
}
given=${prefix:+--prefix}${root:+--root}
if [ -n "$prefix" ]; then prefix=$(absolute "$prefix"); fi
if [ -n "$root" ]; then root=$(absolute "$root"); fi
[ -z "$given" ] || [ -n "$prefix$root" ] || fail "$given / is the running system: run this as root without $given"
[ "$(uname -s)" = Linux ] || fail "uvswitch needs Linux; this is $(uname -s)"
if [ -z "$prefix$root" ] && [ "$(id -u)" != 0 ]; then
	prefix=${HOME:?is not set: give --prefix}/.local
fi
list=${prefix:-$root/usr}/share/uvswitch/files # what was installed, one path in each line

# scripts_run runs a script of the packages, if the system is the running one.
scripts_run() {
	if [ -z "$prefix$root" ]; then sh "/usr/share/uvswitch/$1" "${2-}"; fi
}

# removed removes the files of a list, and the folders that only they have needed.
removed() {
	sort -r "$1" | while IFS= read -r path; do
		case "$path" in # the list may belong to another user than root
		*/../* | */..) continue ;;
		"${prefix:-$root}"/*) ;;
		*) continue ;;
		esac
		if [ -d "$path" ] && [ ! -h "$path" ]; then continue; fi
		rm -f -- "$path"
		dir=$(dirname -- "$path")
		until [ "$dir" = "$prefix" ] || [ "$dir" = "$root/usr" ] || [ "$dir" = "$root/opt" ] || ! rmdir -- "$dir" 2>/dev/null; do
			dir=$(dirname -- "$dir")
		done
	done
}

if [ -n "$uninstall" ]; then
	[ -f "$list" ] || fail "$list does not exist: this script has installed nothing there. A package is removed by apt, dnf or zypper; 'make install' by 'make uninstall'"
	scripts_run preremove.sh remove
	removed "$list"
	if [ -z "$prefix$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	echo "uvswitch was removed."
	[ -n "$prefix$root" ] || echo "Configuration files in /etc, saved state in /var/lib/uvswitch and the user uvswitch, if there are any, were left."
	exit
fi

[ "$(uname -m)" = x86_64 ] || fail "there is no release for $(uname -m): build it with 'make install' (docs/install.md)"
for tool in sha256sum tar gzip sort; do
	command -v $tool >/dev/null || fail "$tool is missing: install it, and run this again"
done
if [ -z "$prefix$root" ]; then
	owner=$(dpkg-query -S /usr/bin/uvswitch 2>/dev/null || rpm -qf /usr/bin/uvswitch 2>/dev/null) &&
		fail "/usr/bin/uvswitch belongs to a package (${owner%%:*}): upgrade the package instead, or remove it first"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# fetch puts a file of the release into $work.
fetch() {
	case "$from" in
	*://*)
		if command -v curl >/dev/null; then
			curl -fsSL -o "$work/$1" "$from/$1"
		elif command -v wget >/dev/null; then
			wget -q -O "$work/$1" "$from/$1"
		else
			fail "curl or wget is needed to download a release. Or download $1 and SHA256SUMS yourself, and give their folder with --from"
		fi || fail "$from/$1 cannot be downloaded. Or download it elsewhere, with SHA256SUMS, and give the folder with --from"
		;;
	*) cp "$from/$1" "$work/$1" || fail "$from has no file $1" ;;
	esac
}

if [ -z "$from" ]; then
	if [ -n "$version" ]; then from=$releases/download/v$version; else from=$releases/latest/download; fi
fi
fetch SHA256SUMS
tarball=$(sed -n "s/^[0-9a-f]\{64\} [ *]\(uvswitch-${version:-[0-9][0-9.]*}-linux-amd64\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS")
[ "$(echo "$tarball" | wc -w)" = 1 ] || fail "SHA256SUMS of $from does not name one file uvswitch-${version:-VERSION}-linux-amd64.tar.gz"
fetch "$tarball"
(cd "$work" && grep " [ *]$tarball\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) ||
	fail "the checksum of $tarball is not that of SHA256SUMS. Nothing was installed. Download it again; if this repeats, do not use it"
mkdir "$work/files"
tar -xzof "$work/$tarball" -C "$work/files"

cd "$work/files"
if [ -n "$prefix" ]; then # what means something below any folder
	mv usr/share/zsh/vendor-completions usr/share/zsh/site-functions
	find usr/bin usr/share/man usr/share/bash-completion usr/share/zsh usr/share/fish usr/share/doc ! -type d >"$work/list"
	under=$prefix cut=usr/
else
	find . ! -type d >"$work/list"
	under=$root cut=./
fi
while IFS= read -r path; do printf '%s\n' "$under/${path#"$cut"}"; done <"$work/list" >"$work/paths"
{ cat "$work/paths" && printf '%s\n' "$list"; } | sort >"$work/installed"
mkdir -p "$(dirname "$list")" || fail "nothing was installed: give a --prefix that you may write to, or run this as root"
if [ -f "$list" ]; then cp "$list" "$work/before"; else : >"$work/before"; fi
sort -u "$work/before" "$work/installed" >"$list" # a copy that is interrupted can be removed
while IFS= read -r path; do
	to=$under/${path#"$cut"}
	mkdir -p "$(dirname "$to")"
	rm -f "$to" # a running switch keeps its own file
	cp -Pp "$path" "$to"
done <"$work/list"
grep -vxF -f "$work/installed" "$work/before" >"$work/gone" || true # files of an earlier version
removed "$work/gone"
cp "$work/installed" "$list"
scripts_run postinstall.sh

command=${prefix:-$root/usr}/bin/uvswitch
release=${tarball#uvswitch-}
printf '%s\n' "uvswitch ${release%-linux-amd64.tar.gz}: installed as $command"
case ":$PATH:" in
*":${command%/*}:"*) ;;
*) [ -n "$root" ] || printf '%s\n' "Add it to your search path: export PATH=\"${command%/*}:\$PATH\"" ;;
esac
printf '%s\n' "See it: uvswitch lab tour. Remove it: sh install.sh --uninstall${prefix:+ --prefix \"$prefix\"}${root:+ --root \"$root\"}"
