#compdef sostenuto
# zsh completion of sostenuto, written by `sostenuto completion zsh`
_sostenuto() {
    if ((CURRENT == 2)); then
        compadd -- @WORDS@
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
@CASES@
    esac
}
if [[ $funcstack[1] == _sostenuto ]]; then _sostenuto "$@"; else compdef _sostenuto sostenuto; fi
